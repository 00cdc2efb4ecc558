//! Every format that crosses a process or a host. Nothing here reads or writes anything:
//! bytes come in, values go out, and every length and number is checked on the way.

#![forbid(unsafe_code)]

pub mod channel;
pub mod control;
pub mod events;
pub mod stream;
pub mod trace;
pub mod xl;
