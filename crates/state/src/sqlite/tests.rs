//! The engine's own tests, besides the suite.
