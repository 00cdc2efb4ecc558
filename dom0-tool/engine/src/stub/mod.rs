//! The stub domain as dom0 sees it: its image, its memory, its construction, its log and
//! crash record, and its end.

mod address_space;
mod builder;
mod image;
mod log;
pub mod room;
mod xl_lock;

pub use builder::orphans;
pub(crate) use builder::{Stub, StubError};
pub use image::id;
pub use log::StubLog;
pub(crate) use log::{Crash, LogDecoder};
