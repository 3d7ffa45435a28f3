# What the jobs share; read by them, not run. Jobs are submitted from the repository's root, or with PADIS_SLURM set to this folder.

# run COMMAND ARGUMENTS...: python -m padis_lightning COMMAND ARGUMENTS... in every task of the job.
# Its log goes to slurm/ in the output folder. Before the time limit Slurm signals this shell, and the job starts again.
run() {
  local site=${PADIS_SLURM:-slurm}/site.env log
  [ ! -f "$site" ] || . "$site"
  [ -z "${MODULES:-}" ] || module load $MODULES
  log=$(output_folder "$@")/slurm
  mkdir -p "$log"
  log+=/$SLURM_JOB_NAME-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}.log
  echo "the log is $log"
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun does not take this over by itself
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}
  export WANDB_RUN_ID=${WANDB_RUN_ID:-$SLURM_CLUSTER_NAME-$SLURM_JOB_ID}  # a job that starts again is one run there
  trap 'scontrol requeue "$SLURM_JOB_ID"; wait' USR1
  srun --kill-on-bad-exit=1 --open-mode=append --output="$log" "${PYTHON:-python}" -m padis_lightning "$@" &
  wait $!
}

# The folder that the arguments of a command name, or the one that it takes by itself.
output_folder() {
  local named="" config=run previous=""
  for word; do
    case $previous in
    --output | gather) named=$word ;;
    --config | -c | sweep) config=$word ;;
    esac
    case $word in
    --output=*) named=${word#*=} ;;
    --config=* | -c=*) config=${word#*=} ;;
    esac
    previous=$word
  done
  config=${config##*/}
  echo "${named:-results/${config%.*}}"
}
