"""Trust in bundles and artifacts from elsewhere: signatures, known keys, and what a load may import."""
