#!/bin/bash
# One job on a Ray of its own, on Slurm: head and driver on the first node of the allocation, a worker on each other node.
# From a checkout on a file system that all nodes mount, after `make setup`:
#
#   sbatch --nodes=3 --gpus-per-node=1 deploy/slurm.sh polite-flamingo build \
#       --profile profiles/openflamingo-9b-v1.yaml --input s3://BUCKET/shards --out s3://BUCKET/pf1m
#
# What lies in a bucket needs its variables (AWS_ACCESS_KEY_ID, …) where sbatch is called: Slurm passes them on. On a shared
# file system give absolute paths. VENV names another environment.
#
# A lost node costs the shards it was working on; the others go on. Five minutes before the time limit the job stops and
# goes back to the queue, and so does a preempted one: started again, it resumes.
#SBATCH --job-name=polite-flamingo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --output=polite-flamingo-%j.log
#SBATCH --open-mode=append
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
[ $# -gt 0 ] || { echo "usage: sbatch [OPTIONS OF SBATCH] deploy/slurm.sh COMMAND [ARGUMENTS]" >&2; exit 2; }

PATH=${VENV:-$PWD/.venv}/bin:$PATH
RAY_AUTH_MODE=token # others on these nodes reach Ray's ports, and Ray runs what it is sent
RAY_AUTH_TOKEN=$(od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n')
RAY_TMPDIR=/tmp/pf-$SLURM_JOB_ID # short, because of the sockets in it; not /tmp/ray, which another user may own
RAY_USAGE_STATS_ENABLED=0
RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # the job has ended by then; Ray would wait 30 s for its actors
RAY_health_check_period_ms=1000 # five missed ones make a lost node: its shards wait 5 s for other nodes, not 15
export PATH RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_TMPDIR RAY_USAGE_STATS_ENABLED RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S \
  RAY_health_check_period_ms
MOST_RESTARTS=20

# Runs one node of Ray until it is told to end, and removes its files. Ray chooses every port itself: another Ray may run
# on the machine.
run_node() {
  mkdir -p "$RAY_TMPDIR" && chmod 700 "$RAY_TMPDIR" # again this job's, if it was requeued
  trap 'rm -rf "$RAY_TMPDIR"' EXIT
  ray start --block --num-cpus="$SLURM_CPUS_PER_TASK" --dashboard-agent-listen-port=0 --min-worker-port=0 \
    --max-worker-port=0 "$@" &
  ray=$!
  trap 'kill "$ray"' TERM INT
  wait "$ray" || wait "$ray" || true # the first one ends with the signal
}

# Waits up to five minutes, in steps of a second, until a command succeeds.
await() {
  for _ in {1..300}; do
    if "$@"; then return; fi
    if [ -n "$ending" ] || ! kill -0 "$head" 2>/dev/null; then break; fi
    sleep 1
  done
  return 1
}

nodes_are_up() { [ "$(ray status --address="$RAY_ADDRESS" 2>/dev/null | grep -c '^ 1 node_')" -ge "${#nodes[@]}" ]; }

driver='' ending='' resume=''
end_driver() {
  ending=yes
  [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true
}
trap end_driver TERM INT
trap 'resume=yes; end_driver' USR1
trap 'trap "" TERM; kill $(jobs -p) 2>/dev/null || true; wait' EXIT # after the driver: Ray on every node

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
run_node --head --port=0 --include-dashboard=false &
head=$!
await test -s "$RAY_TMPDIR/ray/ray_current_cluster" || { echo "Ray's head did not start on ${nodes[0]}" >&2; exit 1; }
RAY_ADDRESS=$(<"$RAY_TMPDIR/ray/ray_current_cluster")
export RAY_ADDRESS

for node in "${nodes[@]:1}"; do # a step for each: srun ends a whole step when one of its nodes is lost
  srun --nodes=1 --ntasks=1 --nodelist="$node" --cpus-per-task="$SLURM_CPUS_PER_TASK" --cpu-bind=none \
    bash -c "set -e; $(declare -f run_node); run_node --address=$RAY_ADDRESS" &
done
await nodes_are_up || [ -n "$ending" ] || echo "not all of ${nodes[*]} joined: starting with those that did" >&2

status=143
if [ -z "$ending" ]; then
  "$@" &
  driver=$!
  while kill -0 "$driver" 2>/dev/null; do wait "$driver" || true; done # a trapped signal ends only `wait`
  status=0
  wait "$driver" || status=$?
fi
if [ -n "$resume" ] && [ "$status" -ne 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$MOST_RESTARTS" ]; then
  echo "out of time: back to the queue, to resume there"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
