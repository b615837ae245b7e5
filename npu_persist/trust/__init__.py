"""Who is trusted with what came from elsewhere: signatures, the keys that are known, and what a load may import.

The promise: nothing here trusts because something could not be read. The package `cryptography` is imported only when
a signature of a known key is checked, or one is made.
"""
