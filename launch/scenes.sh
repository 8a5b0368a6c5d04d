#!/usr/bin/env bash
# Makes the model that is shipped as builtin:demo, from nothing, in hours on two cores.
#
#   bash launch/scenes.sh [FOLDER]     corpus, cache and run go to FOLDER (default: scenes)
#
# It rewrites i2vgen_jax/demo/scenes. Run it again and it goes on where it was.
set -euo pipefail
folder="${1:-scenes}"
[ "${folder:0:1}" = / ] || folder="$PWD/$folder"
cd "$(dirname "$0")/.."
source launch/env.sh
prepare_env requirements.txt
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# As in quickstart.sh.
export XLA_FLAGS="${XLA_FLAGS:---xla_force_host_platform_device_count=2}"
shipped=i2vgen_jax/demo/scenes corpus="$folder/corpus" index="$folder/index" cache="$folder/cache"

echo "== 1/5 corpus"
python -m data_pipelines demo --kind=scenes --output="$folder/source"
python -m data_pipelines ingest --input="$folder/source/webvid" --output="$corpus/videos"
python -m data_pipelines ingest --input="$folder/source/images" --output="$corpus/images"
python -m data_pipelines demo --kind=scenes --sealed --output="$folder/sealed_source"
python -m data_pipelines ingest --input="$folder/sealed_source/webvid" --output="$corpus/sealed"
# How much moves, of every clip, for the condition motion; nothing is left out but copies of what is held out.
python -m data_pipelines curate --corpus="$corpus/videos" --min_short_side=64 --keep_duplicates \
  --allow_no_denylist="rendered here"
if [ ! -d "$index" ]; then
  python -m data_pipelines index --corpus=videos="$corpus/videos" --corpus=images="$corpus/images" \
    --alpha=0 --output="$index"
fi
echo "== 2/5 tokenizer and autoencoder"
python -m i2vgen_jax.demo.make_tokenizer --kind=scenes --output="$shipped/tokenizer"
if [ ! -d "$cache" ]; then
  python -m i2vgen_jax.demo.train_vae --kind=scenes --output="$shipped"
fi
echo "== 3/5 latents"
config="configs/scenes.py:corpus=$corpus,index=$index"
python -m i2vgen_jax.precompute --config="$config" --output="$cache"
echo "== 4/5 train"
python -m i2vgen_jax.train --config="$config,cache=$cache" --workdir="$folder/run"
echo "== 5/5 ship and measure"
python -m i2vgen_jax.demo.shipped --workdir="$folder/run" --output="$shipped"
python -m i2vgen_jax.evaluate --workdir="$folder/run" --output="$folder/evaluation"
python -m i2vgen_jax.evaluate --workdir="$folder/run" --corpus="$corpus/sealed" --num_examples=256 \
  --output="$folder/sealed"
