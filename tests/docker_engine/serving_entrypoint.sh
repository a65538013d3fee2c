#!/bin/sh
# As the entry point of tensorflow/serving. `--bind` is the stand-in's own flag: it listens on loopback unless told.
exec python3 -m tasks.serving.embedded --bind=0.0.0.0 --port=8500 --rest_api_port=8501 \
  --model_name="${MODEL_NAME}" --model_base_path="${MODEL_BASE_PATH}/${MODEL_NAME}" "$@"
