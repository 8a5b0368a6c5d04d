#!/usr/bin/env bash
# From video files to a trained, resumed, sampled and exported image-to-video model, in minutes on a laptop.
#
#   bash launch/quickstart.sh                  moving shapes, made here
#   bash launch/quickstart.sh --videos DIR     the shipped model, fine-tuned on your own folder:
#                                              clip.mp4 beside clip.txt with its caption
#   bash launch/quickstart.sh --output DIR     where everything goes (default: quickstart)
#
# Nothing is downloaded after the install. Run it again and it goes on where it was.
set -euo pipefail

output=quickstart videos=""
while [ $# -gt 0 ]; do
  case "$1" in
    --videos | --output)
      [ $# -gt 1 ] || { echo "error: $1 needs a folder" >&2; exit 2; }
      path="$2"
      [ "${2:0:1}" = / ] || path="$PWD/$2"  # Of the folder from which it is called.
      [ "$1" = --videos ] && videos="$path" || output="$path"
      shift 2 ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: $1 is unknown; known: --videos DIR, --output DIR" >&2; exit 2 ;;
  esac
done
if [ -n "$videos" ]; then
  [ -e "$videos" ] || { echo "error: --videos $videos does not exist: check the path" >&2; exit 2; }
fi
cd "$(dirname "$0")/.."

source launch/env.sh
prepare_env requirements.txt
# The second process finds what the first compiled.
mkdir -p "$output"
JAX_COMPILATION_CACHE_DIR="$(cd "$output" && pwd)/compilation_cache"
export JAX_COMPILATION_CACHE_DIR
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1
# On two cores, two devices of one core each are faster than one device of two: XLA's convolutions
# run on one core (measured: 0.74 s instead of 0.99 s for a step's gradient).
export XLA_FLAGS="${XLA_FLAGS:---xla_force_host_platform_device_count=2}"

corpus="$output/corpus" run="$output/run"
if [ -n "$videos" ]; then
  echo "== 1/2 corpus, fine-tuning of the shipped model, export for torch"
  python -m i2vgen_jax.finetune --weights=builtin:demo --videos="$videos" --output="$output"
  echo "== 2/2 sample a video from an image and a caption"
else
  echo "== 1/6 corpus"
  python -m data_pipelines demo --output="$output/source"
  python -m data_pipelines ingest --input="$output/source/webvid" --output="$corpus/videos"
  python -m data_pipelines ingest --input="$output/source/images" --output="$corpus/images"
  config="configs/demo.py:corpus=$corpus"
  steps="$(python -c "from configs import demo; print(demo.get_config().train.num_steps)")"
  echo "== 2/6 train the first half ($((steps / 2)) of $steps steps), stop"
  python -m i2vgen_jax.train --config="$config" --workdir="$run" --config.train.stop_at=$((steps / 2))
  echo "== 3/6 resume from the checkpoint, train the second half"
  python -m i2vgen_jax.train --config="$config" --workdir="$run"
  echo "== 4/6 sample a video from an image and a caption"
fi
# A held-out first frame with its caption, as training left them beside its own samples.
# shellcheck disable=SC2012  # Names of eight digits.
samples="$(ls -d "$run"/samples/* | tail -n 1)"
prompt="$(cat "$samples/00.txt")"
python -m i2vgen_jax.sample --workdir="$run" --image="$samples/00.png" --prompt="$prompt" \
  --output="$output/sample.mp4"
sheet="$samples/contact_sheet.png" pipeline="$output/diffusers"
if [ -z "$videos" ]; then
  echo "== 5/6 measure on 64 held-out pairs"
  python -m i2vgen_jax.evaluate --workdir="$run" --output="$output/evaluation"
  sheet="$output/evaluation/contact_sheet.png (below each caption: real, sampled)"
  echo "== 6/6 export for diffusers"
  [ -d "$pipeline" ] || python -m i2vgen_jax.export --workdir="$run" --format=diffusers --output="$pipeline"
fi

quoted() { printf %q "$1"; }  # As a shell reads it.
cat <<END

video           $output/sample.mp4   ("$prompt")
contact sheet   $sheet
TensorBoard     $run/tensorboard   (tensorboard --logdir $(quoted "$run/tensorboard"))
checkpoint      $run/checkpoints
END
if [ -n "$videos" ]; then
  echo "torch           $output/torch   (from_pretrained of its modeling.py)"
  echo "next            docs/finetune.md: other weights, sizes, steps and layers"
else
  echo "diffusers       $pipeline   (I2VGenXLPipeline.from_pretrained)"
  echo "next            python -m i2vgen_jax.finetune --weights=$(quoted "$run") --videos=YOUR_CLIPS --output=$(quoted "$output/finetuned")"
fi
