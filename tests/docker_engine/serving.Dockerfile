# Our stand-in server as an image that is used like tensorflow/serving. Built by images.py.
ARG BASE
FROM ${BASE}
LABEL tfship.stand-in="true" \
      org.opencontainers.image.title="tfship's stand-in for TensorFlow Serving" \
      org.opencontainers.image.description="Speaks tensorflow_model_server's flags and protocols; it is not TensorFlow Serving."
ENV PYTHONPATH=/opt/tfship MODEL_BASE_PATH=/models MODEL_NAME=model
COPY tasks /opt/tfship/tasks
COPY entrypoint.sh /usr/bin/tf_serving_entrypoint.sh
EXPOSE 8500 8501
ENTRYPOINT ["/usr/bin/tf_serving_entrypoint.sh"]
