"""What figures were taken on, and what the machine did meanwhile: sensors, clocks, throttling, energy."""
