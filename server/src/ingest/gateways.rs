//! Gateways as people look at them: who is connected, from where, how far, what was rejected. The relation
//! `system.gateways`.
//!
//! Contract: figures are of this run of the server; what must outlast it, the engine keeps. So many names are kept;
//! beyond, the one that has been away for longest is forgotten.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tagmill::Hosted;
use tagmill::arrow::array::{
    ArrayRef, BooleanArray, RecordBatch, StringArray, TimestampNanosecondArray, UInt64Array,
};
use tagmill::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tagmill_proto::v1::{Ack, Hello};
use tagmill_storage::{Clock as _, SystemClock};

/// Names that are kept.
const GATEWAYS_MAX: usize = 10_000;
/// Bytes of what a gateway says of its program.
const AGENT_BYTES_MAX: usize = 128;

/// All gateways of this run.
#[derive(Debug, Default)]
pub(crate) struct Gateways {
    all: Mutex<BTreeMap<String, Gateway>>,
    clock: SystemClock,
}

#[derive(Clone, Debug, Default)]
struct Gateway {
    /// Of the newest stream.
    generation: u64,
    is_connected: bool,
    token: String,
    peer: String,
    agent: String,
    epoch: u64,
    /// The greatest number of a batch that is on disk.
    mark: u64,
    samples: u64,
    rejected: u64,
    connections: u64,
    connected_ns: i64,
    heard_ns: i64,
}

/// Sums over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) connected: u64,
    pub(crate) samples: u64,
    pub(crate) rejected: u64,
}

impl Gateways {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Gateway>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream has begun.
    pub(super) fn connected(
        &self,
        hello: &Hello,
        generation: u64,
        token: &str,
        peer: Option<SocketAddr>,
        mark: u64,
    ) {
        let now_ns = self.clock.wall_ns();
        let mut all = self.lock();
        if all.len() >= GATEWAYS_MAX && !all.contains_key(&hello.gateway) {
            let away = all.iter().filter(|(_, gateway)| !gateway.is_connected);
            let longest = away.min_by_key(|(_, gateway)| gateway.heard_ns);
            let longest = longest.map(|(name, _)| name.clone());
            longest.and_then(|name| all.remove(&name));
        }
        let gateway = all.entry(hello.gateway.clone()).or_default();
        let agent = hello.agent.floor_char_boundary(AGENT_BYTES_MAX);
        *gateway = Gateway {
            generation,
            is_connected: true,
            token: token.to_owned(),
            peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
            agent: hello.agent[..agent].to_owned(),
            epoch: hello.epoch,
            mark,
            connections: gateway.connections + 1,
            connected_ns: now_ns,
            heard_ns: now_ns,
            ..gateway.clone()
        };
    }

    /// What a stream was told.
    pub(super) fn acknowledged(&self, name: &str, ack: &Ack) {
        let now_ns = self.clock.wall_ns();
        if let Some(gateway) = self.lock().get_mut(name) {
            gateway.mark = gateway.mark.max(ack.durable_seq);
            gateway.samples += ack.accepted_samples;
            let rejected = ack.rejects.iter().map(|reject| u64::from(reject.count));
            gateway.rejected += rejected.sum::<u64>();
            gateway.heard_ns = now_ns;
        }
    }

    /// A stream has ended.
    pub(super) fn left(&self, name: &str, generation: u64) {
        let now_ns = self.clock.wall_ns();
        if let Some(gateway) = self.lock().get_mut(name)
            && gateway.generation == generation
        {
            gateway.is_connected = false;
            gateway.heard_ns = now_ns;
        }
    }

    /// Sums over all.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for gateway in self.lock().values() {
            totals.connected += u64::from(gateway.is_connected);
            totals.samples += gateway.samples;
            totals.rejected += gateway.rejected;
        }
        totals
    }
}

/// The relation.
#[derive(Debug)]
pub(super) struct GatewaysRelation(pub(super) Arc<Gateways>);

const TEXTS: [&str; 4] = ["gateway", "token", "peer", "agent"];
const NUMBERS: [&str; 5] = ["epoch", "mark", "samples", "rejected", "connections"];
const TIMES: [&str; 2] = ["connected_since", "last_heard"];

impl Hosted for GatewaysRelation {
    fn name(&self) -> &'static str {
        "gateways"
    }

    fn schema(&self) -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from("UTC")));
        let texts = TEXTS.map(|name| Field::new(name, DataType::Utf8, false));
        let connected = Field::new("connected", DataType::Boolean, false);
        let numbers = NUMBERS.map(|name| Field::new(name, DataType::UInt64, false));
        let times = TIMES.map(|name| Field::new(name, time.clone(), false));
        let fields = texts.into_iter().chain([connected]).chain(numbers).chain(times);
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    fn for_operators(&self) -> bool {
        false
    }

    fn rows(&self) -> Result<RecordBatch, String> {
        let all: Vec<(String, Gateway)> =
            self.0.lock().iter().map(|(name, gateway)| (name.clone(), gateway.clone())).collect();
        let text = |get: fn(&(String, Gateway)) -> &String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(all.iter().map(get)))
        };
        let number = |get: fn(&(String, Gateway)) -> u64| -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(all.iter().map(get)))
        };
        let time = |get: fn(&(String, Gateway)) -> i64| -> ArrayRef {
            let times = TimestampNanosecondArray::from_iter_values(all.iter().map(get));
            Arc::new(times.with_timezone("UTC"))
        };
        let connected: Vec<bool> = all.iter().map(|(_, gateway)| gateway.is_connected).collect();
        let columns = vec![
            text(|(name, _)| name),
            text(|(_, gateway)| &gateway.token),
            text(|(_, gateway)| &gateway.peer),
            text(|(_, gateway)| &gateway.agent),
            Arc::new(BooleanArray::from(connected)),
            number(|(_, gateway)| gateway.epoch),
            number(|(_, gateway)| gateway.mark),
            number(|(_, gateway)| gateway.samples),
            number(|(_, gateway)| gateway.rejected),
            number(|(_, gateway)| gateway.connections),
            time(|(_, gateway)| gateway.connected_ns),
            time(|(_, gateway)| gateway.heard_ns),
        ];
        RecordBatch::try_new(self.schema(), columns).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_shown_with_what_its_streams_have_done() {
        let gateways = Arc::new(Gateways::default());
        let hello = Hello { gateway: "g".to_owned(), epoch: 3, ..Hello::default() };
        gateways.connected(&hello, 1, "t", None, 7);
        let ack = Ack { seq: 9, durable_seq: 8, accepted_samples: 20, ..Ack::default() };
        gateways.acknowledged("g", &ack);
        gateways.connected(&hello, 2, "t", None, 8);
        // The older stream ends after the newer has begun.
        gateways.left("g", 1);
        assert_eq!(gateways.totals(), Totals { connected: 1, samples: 20, rejected: 0 });
        gateways.left("g", 2);
        assert_eq!(gateways.totals().connected, 0);
        let shown = gateways.lock()["g"].clone();
        assert_eq!((shown.mark, shown.samples, shown.connections), (8, 20, 2));
    }

    #[test]
    fn rows_fit_the_schema() {
        let gateways = Arc::new(Gateways::default());
        let hello = Hello { gateway: "g".to_owned(), ..Hello::default() };
        gateways.connected(&hello, 1, "t", "127.0.0.1:9".parse().ok(), 0);
        let relation = GatewaysRelation(gateways);
        let rows = relation.rows().unwrap();
        assert_eq!((rows.num_rows(), rows.schema()), (1, relation.schema()));
    }
}
