//! Exit codes that several commands share.

/// The command did nothing: the usage was wrong, or the host is not ready.
pub const NOT_BEGUN: u8 = 2;
