"""Run work in separate processes, with limits, progress and guaranteed termination."""
