//! Every format that crosses a boundary between processes or hosts. Nothing here does
//! I/O: bytes come in, values go out, and every length and number is checked on the
//! way.

#![forbid(unsafe_code)]

pub mod channel;
pub mod control;
pub mod events;
pub mod gate;
pub mod json;
pub mod spec;
pub mod stream;
pub mod trace;
pub mod xl;
pub mod xl_conf;
