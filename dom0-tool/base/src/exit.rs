//! Exit codes that several commands share.

/// The command did nothing: the usage was wrong, the host is not ready, or there
/// is nothing to show.
pub const NOT_BEGUN: u8 = 2;
