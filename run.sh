#!/usr/bin/env bash
# Starts train.py or eval.py in one or several processes.
#
#   bash run.sh -g 8 -t train --cfg configs/train/cvt/cvt_13_224x224.yaml --data_dir DATA
#   bash run.sh -g 1 -t test --data_dir DATA --resume CHECKPOINT
#
#   -g, --gpus N          processes: N GPUs where Paddle sees a GPU, else N CPU processes joined by gloo (default 1)
#   -t, --job-type TYPE   train or test (default train)
#   -p, --port PORT       port of the first process (default 9000)
#   -i, --install-deps    first install requirements.txt
#   --nodes N --rank R --master HOST
#                         several machines: how many, which this is (0 is the master), the master's address
#
# All other arguments go to the script. PYTHON chooses the interpreter. Paddle's launcher writes every environment
# variable into its log folder, so this passes on only those that training needs, and keeps that folder private.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "error: $1" >&2; exit 2; }
value() { [ $# -ge 2 ] || fail "$1 needs a value"; echo "$2"; }

gpus=1 job=train port=9000 install=false nodes=1 rank=0 master=127.0.0.1
arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    -g | --gpus) gpus=$(value "$@"); shift 2 ;;
    -t | --job-type) job=$(value "$@"); shift 2 ;;
    -p | --port) port=$(value "$@"); shift 2 ;;
    -i | --install-deps) install=true; shift ;;
    --nodes) nodes=$(value "$@"); shift 2 ;;
    --rank) rank=$(value "$@"); shift 2 ;;
    --master) master=$(value "$@"); shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
for number in "$gpus" "$nodes" "$port"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || fail "expected a positive number, got $number"
done
[[ $rank =~ ^[0-9]+$ ]] || fail "--rank must be a number, got $rank"
case "$job" in
  train) script=train.py ;;
  test) script=eval.py ;;
  *) fail "unknown job type $job: -t takes train or test" ;;
esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
command -v "$python" >/dev/null || fail "no $python here; activate the environment, or set PYTHON"
if $install; then "$python" -m pip install -r "$here/requirements.txt"; fi

# Only these variables, and those with these prefixes, are passed on.
kept=()
while IFS= read -r -d '' entry; do
  case "${entry%%=*}" in
    PATH | HOME | USER | LANG | LC_* | TMPDIR | TZ | VIRTUAL_ENV | PYTHONPATH | LD_LIBRARY_PATH | CUDA_* | NVIDIA_* | NCCL_* | \
      GLOO_* | FLAGS_* | OMP_* | MKL_* | KMP_* | GLOG_* | WANDB_MODE | WANDB_DIR | HTTP_PROXY | HTTPS_PROXY | NO_PROXY | http_proxy | \
      https_proxy | no_proxy) kept+=("$entry") ;;
  esac
done < <(env -0)
run() { exec env -i "${kept[@]}" "$@"; }

if [ "$gpus" = 1 ] && [ "$nodes" = 1 ]; then
  run "$python" "$here/$script" "${arguments[@]}"
fi

logs=$(umask 077 && mktemp -d "${TMPDIR:-/tmp}/launch.XXXXXX")
echo "logs of all processes: $logs" >&2
launch=("$python" -W ignore -m paddle.distributed.launch --log_dir "$logs" --log_level CRITICAL)
if [ "$nodes" = 1 ]; then
  launch+=(--master "127.0.0.1:$port")
else
  launch+=(--nnodes "$nodes" --rank "$rank" --master "$master:$port")
fi
if "$python" -c 'import sys, paddle; sys.exit(not paddle.device.is_compiled_with_cuda() or paddle.device.cuda.device_count() < 1)' \
  2>/dev/null; then
  visible=${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((gpus - 1)))}
  [ "$(tr ',' '\n' <<<"$visible" | wc -l)" -ge "$gpus" ] || fail "-g $gpus, but CUDA_VISIBLE_DEVICES is $visible"
  launch+=(--gpus "$(cut -d, -f "1-$gpus" <<<"$visible")")
else
  launch+=(--nproc_per_node "$gpus")
  arguments+=(--device cpu)
  # the launcher stops at an empty CUDA_VISIBLE_DEVICES
  for i in "${!kept[@]}"; do [[ ${kept[i]} == CUDA_VISIBLE_DEVICES=* ]] && unset "kept[i]"; done || true
fi

# In the background, so that a signal reaches the launcher at once; it stops its processes.
env -i "${kept[@]}" RUN_ERROR_DIR="$logs" "${launch[@]}" "$here/$script" "${arguments[@]}" &
child=$!
stopped=
trap 'stopped=130; kill -TERM "$child" 2>/dev/null' INT
trap 'stopped=143; kill -TERM "$child" 2>/dev/null' TERM
code=0
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child" || code=$?; done

if [ -n "$stopped" ]; then
  echo "error: interrupted" >&2
  exit "$stopped"
fi

# The first process that failed knows why; the launcher only saw how another one broke down.
if [ "$code" != 0 ]; then
  first=$(find "$logs" -name 'error.*' -printf '%T@ %p\n' | sort -n | head -n 1 | cut -d' ' -f2-)
  if [ -n "$first" ]; then
    tail -n +2 "$first" >&2
    code=$(head -n 1 "$first")
  fi
fi
exit "$code"
