//! lull as libxl's save helper.
//!
//! libxl starts the program that `LIBXL_SAVE_HELPER` names, with a fixed command line
//! ([`args`]), and talks to it over standard input and output ([`libxl`]). The
//! [`engine`](lull_engine) does the live migrations of guests that lull can move;
//! everything else goes to the stock helper, unchanged ([`mod@stock`]). A second process
//! cleans up if this one dies ([`guard`]). For a fast landing this process only passes the
//! stream to the engine ([`mod@pass_stream`]).

mod args;
mod front_end;
pub mod guard;
mod journal;
mod libxl;
pub mod pass_stream;
mod requested;
mod run;
mod saving;
mod stock;
mod toolstack;
mod transport;

pub use run::{EngineOptions, Version, engine, main};
pub use stock::find as stock;
