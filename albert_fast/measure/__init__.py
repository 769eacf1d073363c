"""Memory and time of a training step, predicted on the meta device and measured on a real one."""
