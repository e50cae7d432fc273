//! How busy an own node's uplink is: an extended message (BEP 10) between them.

use crate::wire::WireError;

/// How much of the last second the sender had something to send to peers. The payload is one byte; who has said
/// nothing counts as [`Partly`](Self::Partly).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UplinkUse {
    /// 0: nearly always. More pieces in its hands help nobody sooner.
    Busy,
    /// 1: neither, or it is complete and needs nothing.
    #[default]
    Partly,
    /// 2: hardly ever, though peers lack pieces: it has too little that others lack.
    Idle,
}

impl UplinkUse {
    /// The name of the message in the extension handshake's `m`.
    pub const NAME: &'static str = "fw_uplink";

    /// The payload, without the extended message's id.
    pub const fn encode(self) -> [u8; 1] {
        [match self {
            Self::Busy => 0,
            Self::Partly => 1,
            Self::Idle => 2,
        }]
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`WireError::Uplink`] when it is not one byte that [`Self::encode`] writes.
    pub const fn decode(payload: &[u8]) -> Result<Self, WireError> {
        match payload {
            [0] => Ok(Self::Busy),
            [1] => Ok(Self::Partly),
            [2] => Ok(Self::Idle),
            _ => Err(WireError::Uplink),
        }
    }
}
