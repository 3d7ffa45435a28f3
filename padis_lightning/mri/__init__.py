"""Parts of magnetic resonance imaging: complex images, sampling masks and coils."""

from padis_lightning.mri.fourier import fourier, inverse_fourier, magnitude, to_channels, to_complex

__all__ = ["fourier", "inverse_fourier", "magnitude", "to_channels", "to_complex"]
