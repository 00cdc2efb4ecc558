//! The engine of a fast landing, a process of `lull migrate`.

use std::io;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context;
use clap::Args;
use lull_base::hygiene;
use lull_base::inherited_fd;
use lull_engine::{Connection, Verdict};
use lull_store::running::claim::CLAIM_FD;
use lull_wire::channel::Edition;
use lull_wire::events::{FRONT_END_FD, How, Landing};
use lull_wire::spec::{BadSpec, MigrationSpec};
use lull_xen::Xen;

use super::{Helper, Task, Tried, Version};
use crate::helper::front_end::FrontEnd;
use crate::helper::pass_stream::PassedStream;
use crate::helper::transport::{Transport, has_ended};
use crate::helper::{guard, requested};

/// The options of `lull engine`, which `lull migrate` starts for a fast landing:
/// inherited descriptors.
#[derive(Debug, Args)]
pub struct EngineOptions {
    /// From where the helper hands over the stream
    #[arg(long)]
    helper: RawFd,

    /// To the transport
    #[arg(long)]
    transport: RawFd,

    /// To `lull land`
    #[arg(long)]
    to_land: RawFd,

    /// From it
    #[arg(long)]
    from_land: RawFd,

    /// The version of the channel that it speaks
    #[arg(long)]
    land: u32,

    /// A further connection to it
    #[arg(long, value_name = "NUMBER:TO:FROM")]
    further: Vec<Further>,
}

/// The number of a further connection to `lull land`, and its descriptors.
#[derive(Debug, Clone, Copy)]
struct Further {
    number: u8,
    to: RawFd,
    from: RawFd,
}

impl FromStr for Further {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (number, fds) = text.split_once(':')?;
            let (to, from) = fds.split_once(':')?;
            Some(Self {
                number: number.parse().ok()?,
                to: to.parse().ok()?,
                from: from.parse().ok()?,
            })
        };
        read().ok_or("it is no connection")
    }
}

impl Further {
    fn adopt(self) -> io::Result<Connection> {
        Ok(Connection {
            number: self.number,
            to: inherited_fd::adopt(self.to)?,
            from: inherited_fd::adopt(self.from)?,
        })
    }
}

impl EngineOptions {
    fn all(&self) -> Vec<RawFd> {
        let first = [self.helper, self.transport, self.to_land, self.from_land];
        let further = self.further.iter().flat_map(|it| [it.to, it.from]);
        first.into_iter().chain(further).collect()
    }
}

/// Runs as the engine of a fast landing.
pub fn engine(options: &EngineOptions, version: Version) -> ExitCode {
    let named = [FRONT_END_FD, CLAIM_FD].map(inherited_fd::number);
    let kept: Vec<RawFd> = named.into_iter().flatten().chain(options.all()).collect();
    drop(inherited_fd::foreign(&kept));
    hygiene::settle();
    let spec = requested::spec();
    engine_until_the_end(options, spec, version).unwrap_or_else(|error| {
        eprintln!("lull engine: {error:#}");
        ExitCode::FAILURE
    })
}

fn engine_until_the_end(
    options: &EngineOptions,
    spec: Result<Option<MigrationSpec>, BadSpec>,
    version: Version,
) -> anyhow::Result<ExitCode> {
    let start = requested::start(&spec);
    let from_helper = inherited_fd::adopt(options.helper)?;
    let channel = (
        inherited_fd::adopt(options.to_land)?,
        inherited_fd::adopt(options.from_land)?,
    );
    let further = options.further.iter().map(|it| it.adopt());
    let further = further.collect::<io::Result<Vec<_>>>()?;
    let edition = Edition::of(options.land).context("no such version of the channel")?;
    let transport = inherited_fd::adopt(options.transport)?.into();
    // An attempt without a valid specification does not begin.
    let landing = match &spec {
        Ok(Some(spec)) => spec.landing,
        Ok(None) | Err(_) => Landing::Fast,
    };
    let transport = Transport::new(transport, landing)?;
    let its_end = transport.try_clone()?;
    let front_end = FrontEnd::connect();
    let watched = front_end.as_ref().and_then(FrontEnd::wake_on);
    let Some(passed) = PassedStream::wait(&from_helper, watched)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let (domid, verify) = (passed.domain, passed.verify);
    let (mut toolstack, stream) = passed.into_toolstack()?;
    let requested = requested::limits(domid, spec);
    let mut helper = Helper::new(&mut toolstack, domid, front_end, version)?;
    helper.transport = Some(transport);
    let task = Task {
        domid,
        verify,
        stream,
        channel: Some((channel, edition)),
        further,
        landing,
    };
    let verdict = match helper.attempt(task, start, requested) {
        Tried::Ended(verdict) => verdict,
        // This does not happen in a fast landing.
        Tried::LeftToStock(reason) => Verdict::plain(How::SourceFailed, reason, ""),
    };
    // The guard needs no report: the transport knows how it ended.
    let (code, _guard) = helper.finish(&verdict);
    if verdict.how == How::StreamComplete {
        // When this process ends, the kernel unmaps what it shares with the stub and closes
        // the connection to `lull land`. That takes dom0 time on both hosts, which would
        // lengthen the guest's pause.
        if let Ok(xen) = Xen::open_here() {
            guard::wait_while_it_lands(&xen, domid, || has_ended(&its_end));
        }
    }
    Ok(code)
}
