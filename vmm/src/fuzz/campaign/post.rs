//! What clients send to their supervisor, and what it sends on to other clients.

use libafl::events::{Event, EventWithStats};
use libafl_bolts::ClientId;
use libafl_bolts::llmp::{Flags, LlmpBrokerInner, LlmpHook, LlmpMsgHookResult, Tag};
use libafl_bolts::shmem::StdShMem;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::rc::Rc;

use super::FuzzError;
use super::input::MapInput;
use super::segments::Segments;
use crate::fuzz::FindingKey;

/// The tag of a finding: "EFIB". LibAFL's own begin with 0x1A31 or 0xBEEF.
pub const FINDING: Tag = Tag(0x4546_4942);

/// A finding, as a client tells of it.
#[derive(Serialize, Deserialize)]
pub struct Told {
    /// Its key.
    pub key: String,
    /// The scenario that shows it.
    pub toml: String,
}

impl Told {
    /// The name of its file: nothing but a key, since the process that sent it may be anybody's by now.
    pub fn name(&self) -> Result<String, FuzzError> {
        let key: FindingKey = self.key.parse().map_err(FuzzError::Client)?;
        Ok(key.to_string())
    }
}

/// What came in since the supervisor last looked.
#[derive(Default)]
pub struct Post {
    /// Findings.
    pub findings: Vec<Told>,
    /// Maps that showed something new.
    pub corpus: Vec<MapInput>,
}

/// Takes it in.
pub struct PostHook(pub Rc<RefCell<Post>>);

impl LlmpHook<StdShMem, Segments> for PostHook {
    fn on_new_message(
        &mut self,
        _: &mut LlmpBrokerInner<StdShMem, Segments>,
        _: ClientId,
        tag: &mut Tag,
        _: &mut Flags,
        message: &mut [u8],
        _: &mut Vec<(Tag, Flags, Vec<u8>)>,
    ) -> Result<LlmpMsgHookResult, libafl::Error> {
        let mut post = self.0.borrow_mut();
        if *tag == FINDING {
            // A supervisor's own business: others find it again with the map, which is an event of its own.
            post.findings.extend(postcard::from_bytes(message).ok());
            return Ok(LlmpMsgHookResult::Handled);
        }
        let event = postcard::from_bytes::<EventWithStats<MapInput>>(message);
        Ok(match event.as_ref().map(EventWithStats::event) {
            Ok(Event::NewTestcase { input, .. }) => {
                post.corpus.push(input.clone());
                LlmpMsgHookResult::ForwardToClients
            }
            Ok(Event::Objective { .. }) => LlmpMsgHookResult::ForwardToClients,
            // What cannot be read would end the clients that got it.
            _ => LlmpMsgHookResult::Handled,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_names_no_file() {
        let name = |key: &str| Told { key: key.into(), toml: String::new() }.name().ok();
        let key = "wrong-frame.RuntimeServicesData.map.PTE.one_page_up-23";
        assert_eq!(name(key).as_deref(), Some(key));
        let damaged = ["../../x", ".../../x-1", "a/b-1"]
            .map(|set_by| format!("wrong-frame.RuntimeServicesData.map.PTE.{set_by}"));
        for key in damaged.iter().map(String::as_str).chain(["", "../../night", "/etc/wrong-frame.none.map.PTE"]) {
            assert_eq!(name(key), None, "{key}");
        }
    }
}
