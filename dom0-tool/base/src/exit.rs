//! Exit codes that several commands share.

/// Nothing was begun: wrong usage, or the host is not ready.
pub const NOT_BEGUN: u8 = 2;
