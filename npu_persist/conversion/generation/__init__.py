"""Language models that generate: stateful decoders with the names that OpenVINO GenAI expects."""
