"""The deploy side: a bundle, verified, compiled by OpenVINO and called like the module it came from. No torch."""
