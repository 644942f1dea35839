//! The kinds of the embedded API: a table of schema, defaults, validation, columns, patch and codecs.
