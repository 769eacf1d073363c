"""What a training step costs: memory and time, predicted on the meta device and measured on a real one."""
