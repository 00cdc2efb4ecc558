//! Records of attempts that survive the process that makes them.
//!
//! Neither helper nor front end may wait for a disk: until the one exits, libxl
//! does not go on, and the guest is paused; the other may be killed. So they
//! hand lines through a pipe ([`Pipe`]) to a second process ([`spooler`]), which
//! holds them in memory until the pipe ends, whatever its writer died of, and
//! only then writes them to a [`folder`]. A record may be lost; an attempt is
//! never lost to it.

pub mod folder;
mod pipe;
pub mod spooler;

pub use folder::Folder;
pub use pipe::Pipe;
