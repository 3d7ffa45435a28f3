#!/usr/bin/env bash
# A Slurm of two nodes that share this machine, for tests: two_nodes.sh start | stop, as root, with slurm-wlm and munge installed.
# start prints its configuration for SLURM_CONF. A Slurm that answers already is left as it is; all files are in /run/padis-slurm.
set -euo pipefail
home=/run/padis-slurm
export SLURM_CONF=$home/slurm.conf
nodes=(padis1 padis2)

# Short waits and no accounting; the ports are not Slurm's usual ones.
configure() {
  local host half
  host=$(hostname -s)
  half=$((($(nproc) + 1) / 2))
  rm -rf "$home/state" "$home"/spool-*
  mkdir -p "$home/state" "${nodes[@]/#/$home/spool-}"
  cat >"$SLURM_CONF" <<CONF
ClusterName=padis
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$home/munge/socket,cred_expire=5
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool-%n
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd-%n.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=20
NodeName=${nodes[0]} NodeHostname=$host NodeAddr=127.0.0.1 Port=16818 CPUs=$half State=UNKNOWN
NodeName=${nodes[1]} NodeHostname=$host NodeAddr=127.0.0.1 Port=16819 CPUs=$half State=UNKNOWN
PartitionName=tests Nodes=$(IFS=,; echo "${nodes[*]}") Default=YES MaxTime=INFINITE State=UP
CONF
}

# Munge with a key and a socket of its own.
authenticate() {
  local own=$home/munge
  mkdir -p "$own"
  head -c 128 /dev/urandom >"$own/key"
  chown -R munge "$own"
  chmod 0755 "$home" "$own"
  chmod 0400 "$own/key"
  runuser -u munge -- munged --key-file="$own/key" --socket="$own/socket" --pid-file="$own/pid" --log-file="$own/log" \
    --seed-file="$own/seed"
}

answers() {
  timeout 5 scontrol ping 2>/dev/null | grep -q "is UP"
}

ready() {
  [ "$(sinfo -h -N -o %t 2>/dev/null | grep -c -E '^(idle|mix|alloc)$')" = "$1" ]
}

# stop NAME FILE: end the process whose number is in a file, if it is still the one of that name.
stop() {
  local pid
  pid=$(cat "$home/$2" 2>/dev/null) || return 0
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != "$1" ] || kill "$pid"
}

case "${1:-}" in
start)
  if (unset SLURM_CONF && answers); then
    echo "a Slurm runs here already; it is used as it is"
    exit 0
  fi
  if ! answers; then
    mkdir -p "$home"
    configure
    authenticate
    slurmctld
    for node in "${nodes[@]}"; do slurmd -N "$node"; done
  fi
  for _ in $(seq 60); do
    if ready "${#nodes[@]}"; then
      echo "$SLURM_CONF"
      exit 0
    fi
    sleep 0.5
  done
  echo "the nodes are not ready after 30 s: $(tail -q -n 2 "$home"/*.log)" >&2
  exit 1
  ;;
stop)
  for node in "${nodes[@]}"; do stop slurmd "slurmd-$node.pid"; done
  stop slurmctld slurmctld.pid
  stop munged munge/pid
  ;;
*)
  echo "usage: $0 start | stop" >&2
  exit 2
  ;;
esac
