//! Xen's migration stream: its [`records`], and when one blob of a guest's state may
//! replace another ([`hvm_context`]).

pub mod hvm_context;
pub mod records;
