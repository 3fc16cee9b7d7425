#!/bin/sh
# Runs a batch as a Slurm job array on a cluster of this one machine: munged, slurmctld and slurmd are started in a temporary
# directory, and stopped at the end. Needs root, and Debian's packages slurm-wlm and munge (installed if they are missing).
# Usage: scripts/test-slurm.sh [path of vidgen]
set -eu
cd "$(dirname "$0")/.."
vidgen=$(realpath "${1:-target/release/vidgen}")
[ -x "$vidgen" ] || { echo "test-slurm: no $vidgen: make build first" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "test-slurm: slurmd wants to be root" >&2; exit 1; }
if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    apt-get install -y --no-install-recommends slurm-wlm munge
fi

work=$(mktemp -d)
chmod 755 "$work"
stop() {
    for name in slurmd slurmctld munged; do
        [ -f "$work/$name.pid" ] && kill "$(cat "$work/$name.pid")" 2>/dev/null || true
    done
    sleep 1
    [ "${passed:-}" = 1 ] || tail -n 30 "$work"/*.log >&2 || true
    rm -rf "$work"
}
trap stop EXIT INT TERM

# a key and a socket of our own
dd if=/dev/urandom of="$work/munge.key" bs=1 count=1024 2>/dev/null
mkdir -m 755 "$work/munge"
chmod 600 "$work/munge.key"
munged --force --key-file="$work/munge.key" --socket="$work/munge/socket" --pid-file="$work/munged.pid" \
    --log-file="$work/munged.log" --seed-file="$work/munge.seed"

host=$(hostname -s)
cores=$(nproc)
mkdir "$work/state" "$work/spool"
cat > "$work/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
SlurmUser=root
SlurmdUser=root
SlurmctldPort=26817
SlurmdPort=26818
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$work/slurm.conf"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in $(seq 30); do
    sinfo -h -o %t 2>/dev/null | grep -q '^idle' && break
    sleep 1
done
sinfo
sinfo -h -o %t | grep -q '^idle' || { echo "test-slurm: the node does not come up" >&2; exit 1; }

cat > "$work/jobs.toml" <<'JOBS'
[defaults]
steps = 1
frames = 5
size = "48x32"
output = "{id}.gif"
text_cache = "off"

[[job]]
id = "ball"
prompt = ["a red ball rolls in the snow", "a red ball rolls in the desert"]
transition = "cut"
frames = 10
seed = [1, 2, 3]

[[job]]
id = "box"
prompt = "a blue box"
guidance_scale = [4, 6]
JOBS
array() {
    sbatch --wait --chdir="$work" --export=ALL,VIDGEN="$vidgen",JOBS="$work/jobs.toml",OUT="$work/out",HOME="$work" \
        scripts/cluster/array.sbatch
}
array
made=$(ls "$work"/out/*.gif | wc -l)
[ "$made" = 5 ] || { echo "test-slurm: $made videos instead of 5" >&2; cat "$work"/vidgen-*.log >&2; exit 1; }
done=$(cat "$work"/vidgen-*.log | grep -o '"state":"done"' | wc -l)
[ "$done" = 5 ] || { echo "test-slurm: $done jobs were done instead of 5: some twice, or not at all" >&2; exit 1; }

# what one process makes is the same; and the array, started again, finds everything finished
(unset SLURM_CONF; "$vidgen" batch "$work/jobs.toml" --output-root "$work/alone" --threads 1 --quiet >/dev/null)
for file in "$work"/alone/*.gif; do
    cmp "$file" "$work/out/$(basename "$file")"
done
rm "$work"/vidgen-*.log
array
skipped=$(cat "$work"/vidgen-*.log | grep -o '"state":"skipped"' | wc -l)
[ "$skipped" = 5 ] || { echo "test-slurm: $skipped jobs were skipped instead of 5" >&2; exit 1; }
passed=1
echo "test-slurm: an array of 4 tasks made 5 videos, each once and as one process makes them; started again it skipped all"
