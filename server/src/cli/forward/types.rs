//! The types of tags that are there already, from the servers that say them.
//!
//! Contract: all servers are asked at once, the first that says counts, and none is waited for longer than it is told: what
//! comes in waits meanwhile. Why a server does not say is told as it is: it was not reached, it refused, it was silent.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tagmill_storage::ValueType;

use crate::cli::failure::Failure;
use crate::cli::target::TargetArgs;

/// What servers say, and what people should know of it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) types: HashMap<String, ValueType>,
    pub(super) remarks: Vec<String>,
}

/// What one server says.
enum Said {
    Types(HashMap<String, ValueType>),
    /// Nothing: it was not reached.
    Away(Failure),
    /// That it does not tell.
    Refused(Failure),
}

/// Asks servers by address. Without an answer types follow from the queue, and from the values.
pub(super) fn of_servers(servers: Vec<(String, TargetArgs)>, within: Duration) -> Answer {
    let (answers, heard) = mpsc::channel();
    let mut silent = Vec::with_capacity(servers.len());
    let mut answer = Answer::default();
    for (address, target) in servers {
        silent.push(address.clone());
        let answers = answers.clone();
        // Nobody ends one that waits for ever: it ends with the program.
        let asking = move || drop(answers.send((address, ask(&target))));
        let started = std::thread::Builder::new().name("tagmill-types".into()).spawn(asking);
        if let Err(error) = started {
            answer.remarks.push(format!("no thread to ask for types of tags: {error}"));
        }
    }
    drop(answers);
    let until = Instant::now() + within;
    let mut is_there = false;
    while let Ok((address, said)) =
        heard.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        silent.retain(|other| *other != address);
        match said {
            Said::Types(types) => return Answer { types, ..answer },
            Said::Away(failure) => answer.remarks.push(format!("{address}: {failure}")),
            Said::Refused(failure) => {
                is_there = true;
                answer
                    .remarks
                    .push(format!("{address} does not tell the types of its tags: {failure}"));
            }
        }
    }
    for address in silent {
        let seconds = within.as_secs_f64();
        answer
            .remarks
            .push(format!("{address} has not told the types of its tags within {seconds} s"));
    }
    answer.remarks.push(if is_there {
        "a tag that the queue does not know gets the type of its first value, whatever it is on the server".to_owned()
    } else {
        "no server answers yet: what comes waits in the queue".to_owned()
    });
    answer
}

fn ask(target: &TargetArgs) -> Said {
    match target.open_remote() {
        Err(failure) => Said::Away(failure),
        Ok(remote) => match remote.tag_types() {
            Ok(types) => Said::Types(types),
            Err(failure) => Said::Refused(failure),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_server_is_not_waited_for() {
        // It takes the connection and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [&silent, &nobody].map(|listener| listener.local_addr().unwrap());
        drop(nobody);
        let servers = addresses.map(|address| {
            let connect = Some(address.to_string());
            (address.to_string(), TargetArgs { connect, ..TargetArgs::default() })
        });
        let started = Instant::now();
        let answer = of_servers(servers.to_vec(), Duration::from_millis(500));
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        assert!(answer.types.is_empty());
        let told = answer.remarks.join("\n");
        assert!(told.contains("within 0.5 s") && told.contains("no server answers"), "{told}");
    }
}
