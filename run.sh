#!/usr/bin/env bash
# Starts train.py, eval.py or infer.py in one or several processes.
#
#   bash run.sh -g 8 -t train --cfg configs/train/cvt/cvt_13_224x224.yaml --data_dir DATA
#   bash run.sh -g 1 -t test --data_dir DATA --resume CHECKPOINT
#   bash run.sh -g 4 -t infer --model_dir DIR --input_file FOLDER --output results.jsonl
#
#   -g, --gpus N          processes: N GPUs where Paddle sees a GPU, else N CPU processes joined by gloo (default 1)
#   -t, --job-type TYPE   train, test or infer (default train)
#   -p, --port PORT       port of the first process (default 9000)
#   -i, --install-deps    first install requirements.txt
#   --nodes N --rank R --master HOST
#                         several machines: how many, which this is (0 is the master), the master's address
#   --tries N             starts in all, should a run end with 75: for a reason that may pass (default 1)
#   --pause SECONDS       before the second start; doubles each time, up to 300 s (default 10)
#
# All other arguments go to the script. PYTHON chooses the interpreter.
#
# SIGTERM, SIGHUP and Ctrl-C let the script save; then this exits with 143 or 130. Ctrl-C again ends everything at once.
# Any other exit code is the first failing process's own. A later start continues from the newest checkpoint: --restart
# counts until the earlier run is moved aside, --resume FILE until there is a checkpoint beyond FILE.
#
# Processes of -t infer share the images: each writes a part beside --output, which the first joins at the end. After a
# stop, the same command with --continue goes on. They need one machine.
#
# Paddle's launcher writes every environment variable into its log folder, so this passes on only those that training
# needs, and keeps that folder private. It is removed after a success. WANDB_API_KEY is not passed on: use `wandb login`.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "error: $1" >&2; exit 2; }
value() { [ $# -ge 2 ] || fail "$1 needs a value"; echo "$2"; }

gpus=1 job=train port=9000 install=false nodes=1 rank=0 master=127.0.0.1 tries=1 pause=10
arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    -g | --gpus) gpus=$(value "$@"); shift 2 ;;
    -t | --job-type) job=$(value "$@"); shift 2 ;;
    -p | --port) port=$(value "$@"); shift 2 ;;
    -i | --install-deps) install=true; shift ;;
    --nodes) nodes=$(value "$@"); shift 2 ;;
    --rank) rank=$(value "$@"); shift 2 ;;
    --tries) tries=$(value "$@"); shift 2 ;;
    --pause) pause=$(value "$@"); shift 2 ;;
    --master) master=$(value "$@"); shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
for given in "--gpus $gpus" "--nodes $nodes" "--port $port" "--tries $tries"; do
  name=${given%% *} number=${given#* }
  [[ $number =~ ^[1-9][0-9]*$ ]] || fail "$name must be a positive number, got $number"
  [ ${#number} -le 9 ] || fail "$name must be below 1000000000, got $number"
done
[[ $rank =~ ^(0|[1-9][0-9]{0,8})$ ]] || fail "--rank must be a number, got $rank"
[ "$rank" -lt "$nodes" ] || fail "--rank must be below --nodes ($nodes), 0 is the master; got $rank"
[ "$port" -le 65535 ] || fail "--port must be in 1 to 65535, got $port"
[[ $pause =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--pause must be a number of seconds, got $pause"
case "$job" in
  train) script=train.py ;;
  test) script=eval.py ;;
  infer) script=infer.py ;;
  *) fail "unknown job type $job: -t takes train, test or infer" ;;
esac

if [ "$job" = infer ] && [ "$nodes" != 1 ]; then fail "-t infer runs on one machine: give each machine its own images"; fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
command -v "$python" >/dev/null || fail "no $python here; activate the environment, or set PYTHON"
if $install; then "$python" -m pip install -r "$here/requirements.txt"; fi

# Only these variables, and those with these prefixes, are passed on; never one that is called or looks like a secret.
kept=()
while IFS= read -r -d '' entry; do
  name=${entry%%=*}
  case "${name^^}" in
    *KEY* | *TOKEN* | *SECRET* | *PASSW* | *CREDENTIAL* | *AUTH*)
      if [ "$name" = WANDB_API_KEY ] && [[ " ${arguments[*]} " == *" --log_wandb "* ]]; then
        echo "note: WANDB_API_KEY is not passed on, a launcher would write it to a file; log in once with: wandb login" >&2
      fi
      continue
      ;;
    HF_ENDPOINT | *_PROXY)
      if [[ $entry == *@* ]]; then  # user:password@host, with or without http://
        echo "note: $name may hold a password and is not passed on" >&2
        continue
      fi
      ;;
  esac
  case "$name" in
    PATH | HOME | USER | LANG | LC_* | TMPDIR | TZ | VIRTUAL_ENV | PYTHONPATH | LD_LIBRARY_PATH | CUDA_* | NVIDIA_* | NCCL_* | \
      GLOO_* | FLAGS_* | OMP_* | MKL_* | KMP_* | GLOG_* | WANDB_MODE | NETRC | XDG_CACHE_HOME | PADDLE_CVT_HOME | \
      HF_ENDPOINT | HTTP_PROXY | HTTPS_PROXY | NO_PROXY | http_proxy | https_proxy | no_proxy) kept+=("$entry") ;;
  esac
done < <(env -0)

launch=()
if [ "$gpus" != 1 ] || [ "$nodes" != 1 ]; then
  if [ "$nodes" = 1 ]; then
    launch+=(--master "127.0.0.1:$port")
  else
    launch+=(--nnodes "$nodes" --rank "$rank" --master "$master:$port")
  fi
  # the CPU wheel has no GPU; only another Paddle is worth the seconds that it takes to ask
  if "$python" -c 'import importlib.metadata as m, sys
if "paddlepaddle" in {d.name for d in m.distributions()}: sys.exit(1)
import paddle; sys.exit(not paddle.device.is_compiled_with_cuda() or paddle.device.cuda.device_count() < 1)' \
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
fi

# From here on util/job.py is this process: it starts the script, passes signals on, starts again what failed in passing.
exec env -i "${kept[@]}" "$python" -P -c 'import sys; sys.path.insert(0, sys.argv[1]); from util.job import main; main(sys.argv[2:])' \
  "$here" --tries "$tries" --pause "$pause" "${launch[@]/#/--launch=}" "$here/$script" "${arguments[@]}"
