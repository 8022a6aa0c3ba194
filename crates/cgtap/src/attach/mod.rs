//! Pure attach rules.
