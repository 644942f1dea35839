//! Transactions with nf_tables: all of it or nothing, and who else made some.
//!
//! The kernel counts the transactions of a namespace, whatever their table (`NFT_MSG_GETGEN`).
//! A transaction that names the number it builds on is refused where another one came first:
//! so its owner knows the number after each of its own, and a number that differs says that
//! somebody else was there, for the price of one small request.

use super::*;

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_BATCH_GENID: u16 = 1;
pub(super) const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;
/// How often a transaction gives way to others before it is made whatever came first.
const YIELDS_MAX: u32 = 3;

/// A connection to nf_tables of one namespace: that of the thread which first used it.
#[derive(Default)]
pub(super) struct Link {
    connection: Option<Connection>,
    /// The number of the last transaction, which was ours; `None` where that is not known.
    generation: Option<u32>,
    /// Whether others made transactions since the table was known to be as it shall be.
    foreign: bool,
    /// How many of the next transactions the kernel shall refuse.
    #[cfg(test)]
    pub(super) spoilt: u32,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Link {
    /// Makes all changes or none.
    pub(super) fn commit(
        &mut self,
        operation: &'static str,
        #[cfg_attr(not(test), expect(unused_mut, reason = "tests spoil it"))] mut messages: Vec<
            Message,
        >,
    ) -> Result<()> {
        #[cfg(test)]
        if self.spoilt > 0 {
            self.spoilt -= 1;
            let mut absent = message(NFT_MSG_NEWRULE, NFPROTO_INET, NLM_F_CREATE);
            absent.attr_str(NFTA_RULE_TABLE, TABLE).attr_str(NFTA_RULE_CHAIN, "spoilt");
            messages.push(absent);
        }
        for _ in 0..YIELDS_MAX {
            let known = match self.generation {
                Some(known) => known,
                None => self.ask_generation()?,
            };
            match self.send(Some(known), &messages) {
                Ok(()) => {
                    // As the kernel counts: 0 is left out.
                    self.generation = Some(known.wrapping_add(1).max(1));
                    return Ok(());
                }
                Err(r) if r.source.raw_os_error() == Some(libc::ERESTART) => {
                    (self.generation, self.foreign) = (None, true);
                }
                Err(r) => return Err(self.failed(operation, r)),
            }
        }
        // Afterwards the number is not known to be ours.
        (self.generation, self.foreign) = (None, true);
        self.send(None, &messages).map_err(|r| self.failed(operation, r))
    }

    fn send(
        &mut self,
        generation: Option<u32>,
        messages: &[Message],
    ) -> std::result::Result<(), Refusal> {
        let edge = |kind: u16| {
            Message::new(kind, NLM_F_REQUEST)
                .header(&nfgenmsg(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES))
        };
        let mut begin = edge(NFNL_MSG_BATCH_BEGIN);
        if let Some(generation) = generation {
            begin.attr_be32(NFNL_BATCH_GENID, generation);
        }
        self.connection()?.batch(&begin, messages, &edge(NFNL_MSG_BATCH_END))
    }

    /// Whether nobody else made a transaction, in any table of the namespace, since the table
    /// was as it shall be.
    pub(super) fn is_alone(&mut self) -> Result<bool> {
        if !self.foreign {
            let known = self.generation;
            self.foreign = Some(self.ask_generation()?) != known;
        }
        Ok(!self.foreign)
    }

    /// What `look` finds, all of one moment, with its generation: it looks again where somebody
    /// makes a transaction meanwhile; `None` where that goes on and on.
    pub(super) fn look<T>(
        &mut self,
        look: impl Fn(&mut Self) -> Result<T>,
    ) -> Result<Option<(u32, T)>> {
        for _ in 0..YIELDS_MAX {
            let before = self.ask_generation()?;
            let found = look(self)?;
            if self.ask_generation()? == before {
                return Ok(Some((before, found)));
            }
        }
        Ok(None)
    }

    /// The generation after the last transaction, if that was ours.
    pub(super) fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// The table of that generation is known, whoever made it; `None`: of no one.
    pub(super) fn trust(&mut self, generation: Option<u32>) {
        (self.generation, self.foreign) = (generation, generation.is_none());
    }

    fn ask_generation(&mut self) -> Result<u32> {
        const OPERATION: &str = "get nf_tables generation";
        let request = message(NFT_MSG_GETGEN, NFPROTO_UNSPEC, NLM_F_ACK);
        let answers = self.request(&request).map_err(|r| self.failed(OPERATION, r))?;
        let attrs = answers.iter().flat_map(|a| wire::attrs_after(&a.payload, 4));
        let id = attrs
            .filter(|(kind, _)| *kind == NFTA_GEN_ID)
            .find_map(|(_, data)| Some(u32::from_be_bytes(data.try_into().ok()?)));
        id.ok_or(Error::Malformed { operation: OPERATION, what: "no generation" })
    }

    /// Whether the table exists.
    pub(super) fn exists(&mut self) -> Result<bool> {
        match self.request(&table(NFT_MSG_GETTABLE, NLM_F_ACK)) {
            Ok(_) => Ok(true),
            Err(r) if r.source.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(r) => Err(self.failed("get nf_tables table", r)),
        }
    }

    /// Answers to one request.
    pub(super) fn get(&mut self, request: &Message) -> Result<Vec<Received>> {
        self.request(request).map_err(|r| self.failed("get from nf_tables table", r))
    }

    /// All parts of a list.
    pub(super) fn list(&mut self, request: &Message) -> Result<Vec<Received>> {
        let listed = self.connection().and_then(|c| c.dump(request));
        listed.map_err(|r| self.failed("list nf_tables table", r))
    }

    fn request(&mut self, message: &Message) -> std::result::Result<Vec<Received>, Refusal> {
        self.connection()?.request(message.clone())
    }

    fn connection(&mut self) -> std::result::Result<&mut Connection, Refusal> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(netlink_sys::protocols::NETLINK_NETFILTER)?,
        };
        Ok(self.connection.insert(connection))
    }

    /// After a failure answers may be left in the socket: another one takes its place.
    fn failed(&mut self, operation: &'static str, refusal: Refusal) -> Error {
        (self.connection, self.generation, self.foreign) = (None, None, true);
        Error::Kernel {
            operation,
            object: TABLE.to_owned(),
            detail: refusal.detail,
            source: refusal.source,
        }
    }
}
