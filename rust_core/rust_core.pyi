"""The assimilation kernel of AutoNVIS, compiled from Rust."""

__version__: str
