//! Labels of state codes, as a file of tags gives them, set in a database.
//!
//! Contract: a code that has another label already is an error, since a code's label never changes; what was set before
//! it stays.

use std::collections::BTreeMap;

use tagmill_proto::v1;

use super::attributes::Entry;
use super::failure::{Failure, Result};
use super::target::Door;

/// Codes and labels by state set.
#[derive(Debug, Default)]
pub struct StateSets(BTreeMap<String, BTreeMap<u16, String>>);

impl StateSets {
    /// Adds what a file says about `tag`.
    pub fn add(&mut self, tag: &str, entry: &Entry) {
        if !entry.states.is_empty() {
            let set = entry.attributes.state_set.as_deref().unwrap_or(tag);
            self.0.entry(set.to_owned()).or_default().extend(entry.states.iter().cloned());
        }
    }

    /// Sets the labels.
    ///
    /// # Errors
    /// If a code has another label, or the database cannot be written.
    pub fn set(self, door: &Door) -> Result<()> {
        for (set, labels) in self.0 {
            match door {
                Door::Local(local) => {
                    let labels: Vec<(u16, String)> = labels.into_iter().collect();
                    local.engine().set_states(&set, &labels)?;
                }
                Door::Remote(remote) => remote.block_on(async {
                    let labels = labels.into_iter().map(|(code, label)| (code.into(), label));
                    let request = v1::SetStatesRequest { set, labels: labels.collect() };
                    let mut admin = v1::admin_client::AdminClient::new(remote.channel().await?);
                    admin.set_states(request).await.map_err(|status| remote.failure(&status))?;
                    Ok::<_, Failure>(())
                })?,
            }
        }
        Ok(())
    }
}
