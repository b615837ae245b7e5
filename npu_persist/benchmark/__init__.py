"""What `bench` measures: throughput, latency, first inferences, layers; and plots of them."""
