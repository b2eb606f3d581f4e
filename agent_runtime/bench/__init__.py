"""What `torpor bench` measures. Every measurement is one line of JSON, with units in its names."""
