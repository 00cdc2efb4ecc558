//! The migration stream: what the bytes are ([`records`]), in what order they
//! wait ([`queue`]), and where they go ([`sink`]), by which [`pipe`]; and when one
//! blob of Xen's state may replace another ([`hvm_context`]).

pub mod hvm_context;
pub mod pipe;
pub mod queue;
pub mod records;
pub mod sink;
