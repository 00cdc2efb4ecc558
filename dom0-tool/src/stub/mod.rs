//! The stub domain as dom0 sees it: the image, the memory for it, how a domain is
//! built around it, what it says, and how it ends.

mod address_space;
mod builder;
mod image;
mod log;
pub mod room;
mod xl_lock;

pub use builder::{Stub, StubError, orphans};
pub use image::id;
pub use log::{Crash, LogDecoder, StubLog};
