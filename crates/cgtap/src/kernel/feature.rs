//! Features, found by trying them.
