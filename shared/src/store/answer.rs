//! What Redis says instead of an answer, and what is done about it: one table.
//!
//! Not here: what a script's reply means (`script.rs`), who waits and for how long (`pool`).

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::{self, Error};

/// Why a call brought no answer of the script.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Redis is out of reach or cannot answer now: the same call may be made again.
    Away(String),
    /// Redis does not let us in, which an operator has to change. Who was in before asks again, who begins does not.
    Locked(Error),
    /// Repeating does not help.
    Refused(Error),
}

impl CallError {
    pub(crate) fn away(message: impl Into<String>) -> Self {
        Self::Away(message.into())
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Away(message) => Self::redis(format!("Redis does not answer: {message}")),
            CallError::Locked(error) | CallError::Refused(error) => error,
        }
    }
}

/// What is done about an error of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The same call is made again: it passes by itself.
    Again,
    /// This server will not do: connections to it are given up, and the one that does is looked for anew.
    Reconnect,
    /// Redis does not let us in. Whoever is at work goes on asking, whoever begins ends with it.
    Locked,
    /// Of no use, as long as the call is the same.
    Refuse(error::ErrorKind),
}

/// What shows that it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Any answer.
    Answer,
    /// A write: reading works all the time.
    Write,
    /// There is nothing to be over: it concerns one call.
    Call,
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// What the error starts with; a sentence where Redis gives it no word of its own.
    pub(crate) prefix: &'static str,
    pub(crate) action: Action,
    pub(crate) until: Until,
    /// What it means.
    says: &'static str,
    /// What to do about it.
    hint: &'static str,
}

const PASSWORD: &str =
    "put them into the URL (--redis-url, MOTORPOOL_REDIS_URL or its file): redis://USER:PASSWORD@HOST";
const RIGHTS: &str = "give it ~mp:{POOL}:* &mp:{POOL}:* +@all -@admin -@dangerous +info +role +config|get";
const DAMAGED: &str = "somebody else has changed the pool's keys; `motorpool doctor` says what is broken";

const fn row(prefix: &'static str, action: Action, until: Until, says: &'static str, hint: &'static str) -> Row {
    Row { prefix, action, until, says, hint }
}

/// Every error that is expected of a Redis, each once.
const TABLE: &[Row] = {
    use Action::{Again, Locked, Reconnect, Refuse};
    use Until::{Answer, Call, Write};
    use error::ErrorKind::{Failed, Redis, Refused, Usage};
    &[
        // Sentences first: their word is ERR, which says nothing.
        row("max number of clients", Again, Answer, "Redis has all the clients that it takes", "raise its maxclients"),
        row(
            "invalid DB index",
            Refuse(Usage),
            Call,
            "Redis has no database of this number",
            "leave /DB out of the URL",
        ),
        row(
            "SELECT is not allowed in cluster mode",
            Refuse(Usage),
            Call,
            "a cluster has one database alone",
            "leave /DB out of the URL",
        ),
        row(
            "DB index is out of range",
            Refuse(Usage),
            Call,
            "Redis has no database of this number",
            "leave /DB out of the URL, or raise the setting databases of Redis",
        ),
        row("LOADING", Again, Answer, "Redis is still reading its data", "it goes on by itself"),
        row("BUSY", Again, Answer, "a script of somebody else keeps Redis busy", "end it: redis-cli script kill"),
        row("UNKILLABLE", Again, Answer, "a script that has written keeps Redis busy", "wait for it to end"),
        row("MISCONF", Again, Write, "Redis cannot write to its disk (full?)", "make room on the machine of Redis"),
        row(
            "NOREPLICAS",
            Again,
            Write,
            "Redis takes no writes with so few replicas (min-replicas-to-write)",
            "start a replica, or lower min-replicas-to-write",
        ),
        row("NOSCRIPT", Again, Call, "Redis has forgotten a script", "nothing is to be done"),
        row("CLUSTERDOWN", Again, Answer, "the cluster is down", "see what CLUSTER INFO says of it"),
        row(
            "TRYAGAIN",
            Again,
            Answer,
            "the pool's slot is being moved to another node of the cluster",
            "it goes on when that is done",
        ),
        row(
            "ASK",
            Again,
            Answer,
            "the pool's slot is being moved to another node of the cluster",
            "it goes on when that is done",
        ),
        row("MOVED", Reconnect, Answer, "another node of the cluster has the pool's slot", "it is asked next"),
        row(
            "READONLY",
            Reconnect,
            Write,
            "this Redis is a replica, and takes no writes",
            "name its primary, or its Sentinels: redis+sentinel://HOST,HOST/SERVICE",
        ),
        row(
            "UNBLOCKED",
            Reconnect,
            Answer,
            "this Redis has become a replica",
            "name its Sentinels, who know the primary: redis+sentinel://HOST,HOST/SERVICE",
        ),
        row(
            "MASTERDOWN",
            Reconnect,
            Answer,
            "this Redis is a replica that has lost its primary",
            "name its Sentinels, who know the primary: redis+sentinel://HOST,HOST/SERVICE",
        ),
        row("NOAUTH", Locked, Answer, "Redis wants another user or password", PASSWORD),
        row("WRONGPASS", Locked, Answer, "Redis wants another user or password", PASSWORD),
        row(
            "DENIED",
            Locked,
            Answer,
            "Redis lets nobody in from other machines (protected mode)",
            "give it a password (requirepass), and put it into the URL",
        ),
        row("NOPERM", Refuse(Redis), Call, "this user of Redis may not do that", RIGHTS),
        row(
            "OOM",
            Refuse(Refused),
            Call,
            "Redis has no memory left for new work",
            "raise maxmemory, or let running tasks end; they go on",
        ),
        row("NOGROUP", Refuse(Failed), Call, "a lane of the pool has lost its group", DAMAGED),
        row("WRONGTYPE", Refuse(Failed), Call, "a key of the pool holds something else", DAMAGED),
        row("CROSSSLOT", Refuse(Failed), Call, "a call reached for keys of two slots", "this is a fault of Motorpool"),
    ]
};

/// The row of what Redis said; nothing where it said nothing, or nothing known.
pub(crate) fn row_of(error: &RedisError) -> Option<&'static Row> {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return row_of_text("WRONGPASS");
    }
    match error.code() {
        Some("ERR") => row_of_sentence(&error.to_string()),
        Some(word) => row_of_text(word),
        // Of several commands that were sent together, the first that failed.
        None => {
            let errors = error.clone().into_server_errors()?;
            let (_, first) = errors.first()?;
            if first.code() == "ERR" { row_of_sentence(first.details()?) } else { row_of_text(first.code()) }
        }
    }
}

fn row_of_text(word: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.prefix == word)
}

fn row_of_sentence(text: &str) -> Option<&'static Row> {
    TABLE.iter().filter(|row| row.prefix.contains(' ')).find(|row| text.contains(row.prefix))
}

impl Row {
    /// The error in words: what it means, then what Redis said.
    pub(crate) fn text(&self, said: &RedisError) -> String {
        // Who has no more to say than the word is quoted with the word alone.
        format!("{}: {}", self.says, said_by(said).unwrap_or_else(|| self.prefix.to_owned()))
    }
}

/// Redis's own words.
fn said_by(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    let (_, first) = errors.first()?;
    Some(match first.details() {
        Some(details) => format!("{} {details}", first.code()),
        None => first.code().to_owned(),
    })
}

/// Sorts what Redis or the connection said into "again later" and "no use".
pub(crate) fn sort_error(error: &RedisError) -> CallError {
    if let Some(row) = row_of(error) {
        let told = |kind| Error::new(kind, row.text(error)).hint(row.hint);
        return match row.action {
            Action::Again | Action::Reconnect => CallError::Away(format!("{}; {}", row.text(error), row.hint)),
            Action::Locked => CallError::Locked(told(error::ErrorKind::Redis)),
            Action::Refuse(kind) => CallError::Refused(told(kind)),
        };
    }
    let text = error.to_string();
    let no_use = match error.kind() {
        ErrorKind::InvalidClientConfig => Error::usage(text),
        ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::Extension => {
            Error::failed(format!("Redis refused a call: {text}"))
        }
        ErrorKind::Parse => Error::redis(format!("what answers does not speak Redis's protocol: {text}"))
            .hint("correct --redis-url (MOTORPOOL_REDIS_URL)"),
        ErrorKind::UnexpectedReturnType => Error::failed(format!("Redis answered something unexpected: {text}")),
        _ => return CallError::away(text),
    };
    CallError::Refused(no_use)
}

#[cfg(test)]
mod tests {
    use redis::{FromRedisValue, Value};

    use super::*;

    /// What Redis sends, as the client reads it.
    fn said(line: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        let Value::ServerError(error) = value else { panic!("{line} is no error") };
        error.into()
    }

    /// The lines are Redis's own, 7.0 to 8.2, and Valkey's.
    #[test]
    fn each_error_has_one_action() {
        use Action::{Again, Locked, Reconnect, Refuse};
        use Until::{Answer, Call, Write};
        use error::ErrorKind::{Failed, Redis, Refused, Usage};
        let of_script = "script: 3e2a, on @user_script:12.";
        let lines = [
            ("ERR max number of clients reached", Again, Answer),
            ("ERR max number of clients + cluster connections reached", Again, Answer),
            ("ERR invalid DB index", Refuse(Usage), Call),
            ("ERR DB index is out of range", Refuse(Usage), Call),
            ("ERR SELECT is not allowed in cluster mode", Refuse(Usage), Call),
            ("LOADING Redis is loading the dataset in memory", Again, Answer),
            ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", Again, Answer),
            ("UNKILLABLE Sorry the script already executed write commands against the dataset.", Again, Answer),
            ("MISCONF Errors writing to the AOF file: No space left on device", Again, Write),
            (&format!("MISCONF Redis is configured to save RDB snapshots {of_script}"), Again, Write),
            ("NOREPLICAS Not enough good replicas to write.", Again, Write),
            ("NOSCRIPT No matching script.", Again, Call),
            ("CLUSTERDOWN The cluster is down", Again, Answer),
            ("CLUSTERDOWN Hash slot not served", Again, Answer),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Again, Answer),
            ("ASK 866 127.0.0.1:7001", Again, Answer),
            ("MOVED 866 127.0.0.1:7001", Reconnect, Answer),
            ("READONLY You can't write against a read only replica.", Reconnect, Write),
            (&format!("READONLY You can't write against a read only replica. {of_script}"), Reconnect, Write),
            (
                "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
                Reconnect,
                Answer,
            ),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Reconnect, Answer),
            ("NOAUTH Authentication required.", Locked, Answer),
            ("NOAUTH HELLO must be called with the client already authenticated", Locked, Answer),
            ("WRONGPASS invalid username-password pair or user is disabled.", Locked, Answer),
            ("DENIED Redis is running in protected mode because protected mode is enabled", Locked, Answer),
            ("NOPERM this user has no permissions to run the 'evalsha' command", Refuse(Redis), Call),
            ("NOPERM User worker has no permissions to access one of the keys", Refuse(Redis), Call),
            ("OOM command not allowed when used memory > 'maxmemory'.", Refuse(Refused), Call),
            (&format!("OOM allow-oom flag is not set on the script {of_script}"), Refuse(Refused), Call),
            ("NOGROUP No such key 'x' or consumer group 'y'", Refuse(Failed), Call),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Refuse(Failed), Call),
            ("CROSSSLOT Keys in request don't hash to the same slot", Refuse(Failed), Call),
        ];
        for (line, action, until) in lines {
            let error = said(line);
            let row = row_of(&error).unwrap_or_else(|| panic!("{line} has no row"));
            assert_eq!((row.action, row.until), (action, until), "{line}");
            // Its own words are told too, and what to do.
            match (sort_error(&error), action) {
                (CallError::Away(text), Again | Reconnect) => {
                    assert!(text.contains(line) && text.contains(row.hint), "{text}");
                }
                (CallError::Locked(error), Locked) => assert_eq!(error.kind(), Redis, "{line}"),
                (CallError::Refused(error), Refuse(kind)) => {
                    assert_eq!((error.kind(), error.hint_text()), (kind, Some(row.hint)), "{line}");
                    assert!(error.message().contains(line), "{error}");
                }
                (sorted, _) => panic!("{line}: {sorted:?}"),
            }
        }
        for row in TABLE {
            let tried = lines.iter().any(|(line, ..)| row_of(&said(line)) == Some(row));
            assert!(tried, "{} is tried by no line", row.prefix);
        }
    }

    #[test]
    fn what_stands_in_no_row() {
        for line in ["ERR unknown command 'NOSUCH'", "ERR user_script:3: attempt to index nil", "NOSUCH word"] {
            assert!(row_of(&said(line)).is_none(), "{line}");
            assert!(matches!(sort_error(&said(line)), CallError::Refused(_)), "{line}");
        }
        let broken = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(sort_error(&broken), CallError::Away(_)) && row_of(&broken).is_none());
        let password = RedisError::from((ErrorKind::AuthenticationFailed, "Password authentication failed"));
        assert_eq!(row_of(&password).unwrap().action, Action::Locked);
    }

    #[test]
    fn of_several_commands_the_first_failure_counts() {
        for (line, prefix) in [("MISCONF no room", "MISCONF"), ("READONLY a replica", "READONLY")] {
            let value = redis::parse_redis_value(format!("*2\r\n+OK\r\n-{line}\r\n").as_bytes()).unwrap();
            let error = value.extract_error().unwrap_err();
            assert_eq!(row_of(&error).unwrap().prefix, prefix, "{error}");
            assert!(matches!(sort_error(&error), CallError::Away(text) if text.contains(line)));
        }
        assert!(<Vec<Value>>::from_redis_value(Value::Array(vec![])).unwrap().is_empty());
    }
}
