"""Commands about the files of one or two models, which change nothing: inspect, verify, predict and probe."""
