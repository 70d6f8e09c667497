"""Learning on ArbGym's environments: stable-baselines3 agents over the native batch, and their export to ONNX."""
