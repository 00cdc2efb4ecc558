//! What must become of each fault in each phase.

use super::faults::Fault::{self, *};
use super::phases::Phase::{self, *};

/// What must become of the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The guest runs at the source; lull exits with this code.
    Stays(i32),
    /// The guest runs at the destination; lull exits with this code. With 8 its
    /// suspended domain stays at the source: only a person may destroy it.
    Moves(i32),
    /// The guest is dead, and lull says so.
    Dies,
    /// GO was sent and never arrived: no copy runs, none is destroyed, and lull
    /// says that it does not know.
    Undecided,
}

/// A killed process, as a shell has it.
const KILLED: i32 = 137;

const fn stays(fault: Fault, code: i32) -> (Fault, Then) {
    (fault, Then::Stays(code))
}

const fn moves(fault: Fault, code: i32) -> (Fault, Then) {
    (fault, Then::Moves(code))
}

const fn dies(fault: Fault) -> (Fault, Then) {
    (fault, Then::Dies)
}

/// What every run tries: where a guest can be lost, something in each phase.
pub const ALWAYS: &[(Phase, Fault)] = &[
    (Suspending, Helper),
    (FinalRound, Stub),
    (Landing, Xl),
    (Ready, FrontEnd),
    (HandingOver, Relay),
    (HandedOver, Xl),
    (ChannelFinal, Engine),
    (Landed, FrontEnd),
    (Starting, Land),
    (Started, Engine),
    (Go, Xl),
    (Go, Ssh),
];

/// What is tried on Xen 4.20 too: a part that dies and a gate that closes, at each
/// stage where releases differ.
pub const NEWER: &[(Phase, Fault)] = &[
    (LaterRound, Destroy),
    (Suspending, LateSuspend),
    (FinalRound, Stall),
    (Landing, Stall),
    (Ready, Xl),
    (ChannelFinal, Engine),
    (Go, Ssh),
];

/// All of the table, phase by phase.
pub const CELLS: &[(Phase, &[(Fault, Then)])] = &[
    (
        Connecting,
        &[
            stays(Ssh, 6),
            stays(Stall, 4),
            stays(Xl, 7),
            stays(Relay, 7),
            stays(FrontEnd, KILLED),
            stays(Cancel, 5),
        ],
    ),
    (
        Preparing,
        &[
            stays(Helper, 7),
            stays(FrontEnd, KILLED),
            stays(Stub, 7),
            stays(Xl, 7),
            stays(Relay, 7),
            stays(Ssh, 6),
            stays(Cancel, 5),
        ],
    ),
    (
        FirstRound,
        &[
            stays(Stub, 7),
            stays(Receiver, 6),
            stays(NoMemory, 6),
            stays(Collapse, 4),
            dies(Crash),
            stays(Helper, 7),
            stays(Xl, 7),
            stays(Relay, 7),
            stays(Ssh, 6),
            stays(FrontEnd, KILLED),
            stays(Cancel, 5),
            stays(Stall, 4),
        ],
    ),
    (
        LaterRound,
        &[
            stays(Xl, 7),
            stays(Cancel, 5),
            dies(Destroy),
            stays(Helper, 7),
            stays(Relay, 7),
            stays(Ssh, 6),
        ],
    ),
    (
        Suspending,
        &[
            stays(Helper, 7),
            stays(Ssh, 6),
            stays(LateSuspend, 3),
            stays(Stub, 7),
            stays(Xl, 7),
            stays(FrontEnd, KILLED),
            stays(Cancel, 5),
        ],
    ),
    (
        FinalRound,
        &[
            stays(Stub, 7),
            stays(Xl, 7),
            stays(Relay, 7),
            stays(Stall, 3),
            moves(FullDisk, 0),
            stays(Helper, 7),
            stays(Receiver, 6),
            stays(Ssh, 6),
            stays(FrontEnd, KILLED),
            stays(Cancel, 5),
            stays(Collapse, 3),
        ],
    ),
    (
        Landing,
        &[
            stays(Xl, 7),
            stays(Stall, 3),
            stays(Relay, 7),
            stays(Ssh, 6),
            stays(Receiver, 6),
            stays(FrontEnd, KILLED),
            stays(Cancel, 5),
        ],
    ),
    (
        Ready,
        &[
            stays(Xl, 7),
            stays(FrontEnd, KILLED),
            stays(Relay, 7),
            stays(Ssh, 6),
            stays(Cancel, 5),
        ],
    ),
    (
        Building,
        &[stays(Engine, 7), stays(Incoming, 6), stays(Cancel, 5)],
    ),
    (Attaching, &[stays(Land, 6)]),
    (
        ChannelRound,
        &[
            stays(Ssh, 6),
            stays(FrontEnd, KILLED),
            stays(Stub, 7),
            stays(Incoming, 6),
            stays(Stall, 4),
            dies(Crash),
            dies(Destroy),
        ],
    ),
    (
        HandingOver,
        &[
            stays(Relay, 7),
            stays(Engine, 7),
            stays(Xl, 7),
            stays(Stub, 7),
            stays(Incoming, 6),
            stays(Ssh, 6),
            stays(FrontEnd, KILLED),
            stays(Cancel, 5),
        ],
    ),
    (
        HandedOver,
        &[
            stays(Xl, 7),
            stays(Relay, 7),
            stays(Engine, 7),
            stays(Ssh, 6),
            stays(FrontEnd, KILLED),
            stays(Cancel, 5),
        ],
    ),
    (
        ChannelSuspending,
        &[stays(Engine, 7), stays(LateSuspend, 7)],
    ),
    (
        ChannelFinal,
        &[
            stays(Engine, 7),
            stays(Relay, 7),
            // The receiver has gone; what is killed only watches its copy.
            moves(Incoming, 0),
            stays(Stall, 3),
            stays(Stub, 7),
            stays(Xl, 7),
            stays(Land, 6),
            stays(FrontEnd, KILLED),
            stays(Cancel, 5),
            stays(Collapse, 3),
        ],
    ),
    (ChannelState, &[stays(Engine, 7), stays(Stall, 3)]),
    (
        Landed,
        &[
            stays(FrontEnd, KILLED),
            stays(Xl, 7),
            stays(Ssh, 6),
            stays(Cancel, 5),
        ],
    ),
    (
        Go,
        &[
            moves(Xl, 8),
            (Ssh, Then::Undecided),
            moves(Cancel, 0),
            moves(FrontEnd, KILLED),
        ],
    ),
    (
        Starting,
        &[
            moves(Engine, 8),
            (Land, Then::Undecided),
            (Ssh, Then::Undecided),
            moves(Relay, 8),
            moves(Xl, 8),
            moves(FrontEnd, KILLED),
            moves(Cancel, 0),
        ],
    ),
    (
        Started,
        &[
            moves(Engine, 8),
            moves(Ssh, 8),
            moves(Relay, 8),
            moves(Xl, 8),
            moves(Land, 0),
            moves(FrontEnd, KILLED),
        ],
    ),
    (
        Reporting,
        &[moves(Xl, 8), moves(FrontEnd, KILLED), moves(Ssh, 8)],
    ),
];
