//! For whom a request is done: whose documents it is about, and how their ids are written. Clients
//! of a tenant number their own documents; inside, the tenant's number comes first.

use std::sync::Arc;

use tonic::Extensions;

use super::ended::About;
use super::status::loading;
use super::{Gateway, validate};
use crate::access::fair::Party;
use crate::access::{Caller, Tenant};
use crate::engine::filter::Filter;
use crate::error::{Error, Result};
use crate::observe::origin::Origin;
use crate::proto;
use crate::types::DocId;
use crate::types::realm::Realm;

/// A caller who may do what is asked. The default one is everybody, where there are no tenants.
#[derive(Clone, Default)]
pub(super) struct Subject {
    pub(super) caller: Caller,
    tenant: Option<Arc<Tenant>>,
    /// How the client names the request.
    pub(super) origin: Origin,
}

impl Subject {
    fn of(caller: Caller, origin: Origin) -> Result<Self> {
        let tenant = match caller.grant() {
            None => None,
            // Keys are known before the directory is open.
            Some(grant) => Some(grant.tenant.clone().ok_or_else(|| loading("a moment"))?),
        };
        Ok(Self { caller, tenant, origin })
    }

    /// Its documents in this namespace; in any if it is empty.
    pub(super) fn realm(&self, namespace: &str) -> Realm {
        let tenant = self.tenant.as_ref().map(|tenant| tenant.mark.clone());
        Realm { tenant, namespace: namespace.into() }
    }

    /// The condition that its documents pass; `None` if there are no tenants.
    pub(super) fn condition(&self) -> Option<Filter> {
        self.tenant.as_ref().map(|tenant| Filter::tenant(&tenant.mark))
    }

    /// The document that the client means.
    pub(super) fn doc_id(&self, field: &'static str, id: u64) -> Result<DocId> {
        let id = validate::doc_id(field, id)?;
        let Some(tenant) = &self.tenant else { return Ok(id) };
        let own = u32::try_from(id.0).map_err(|_| {
            let why = format!("DOC_ID_OUT_OF_RANGE: {} is above {}", id.0, u32::MAX);
            Error::invalid(field, why)
        })?;
        Ok(DocId::of_tenant(tenant.index, own))
    }

    /// The document that others come behind; 0 is before all of them.
    pub(super) fn bound(&self, field: &'static str, id: u64) -> Result<DocId> {
        match (&self.tenant, id) {
            (None, 0) => Ok(DocId(0)),
            (Some(tenant), 0) => Ok(DocId::of_tenant(tenant.index, 0)),
            (_, id) => self.doc_id(field, id),
        }
    }

    /// The documents that the client means.
    pub(super) fn doc_ids(&self, field: &'static str, ids: &[u64]) -> Result<Vec<DocId>> {
        validate::count_of_ids(field, ids.len())?;
        ids.iter().map(|&id| self.doc_id(field, id)).collect()
    }

    /// The id of a document as the client knows it.
    pub(super) fn own_id(&self, id: DocId) -> u64 {
        match &self.tenant {
            None => id.0,
            Some(_) => id.0 & u64::from(u32::MAX),
        }
    }

    /// What is told of a search if it is slow.
    pub(super) fn about(&self, request: &proto::SearchRequest) -> About {
        About {
            origin: self.origin.clone(),
            tenant: self.tenant.as_ref().map(|tenant| tenant.mark.clone()),
            has_namespace: !request.namespace.is_empty(),
        }
    }

    /// How many documents it may have; any number if `None`.
    pub(super) fn documents_max(&self) -> Option<u64> {
        self.caller.grant().map(|grant| grant.max_vectors())
    }

    /// The tenant; `None` if there are none.
    pub(super) fn tenant(&self) -> Option<&Arc<Tenant>> {
        self.tenant.as_ref()
    }

    /// Its searches in flight; `None` if there are no tenants.
    pub(super) fn party(&self) -> Option<&Party> {
        self.tenant.as_ref().map(|tenant| &tenant.party)
    }

    /// Its listings, and deletes by filter, in flight; `None` if there are no tenants.
    pub(super) fn sweeps(&self) -> Option<&Party> {
        self.tenant.as_ref().map(|tenant| &tenant.sweeps)
    }

    /// It has been answered so many searches, or documents asked for by id.
    pub(super) fn note_queries(&self, count: u64) {
        if let Some(tenant) = &self.tenant {
            tenant.queries.add(count);
        }
    }
}

impl Gateway {
    fn caller(&self, extensions: &Extensions) -> Result<Caller> {
        match (self.access.is_on(), extensions.get::<Caller>()) {
            (false, _) => Ok(Caller::default()),
            (true, Some(caller)) => {
                // It may have been switched off while the request was read.
                self.access.check(caller)?;
                Ok(caller.clone())
            }
            (true, None) => Err(Error::Internal("a request that nobody has looked at".into())),
        }
    }

    /// For whom a request about documents is done.
    pub(super) fn subject(&self, extensions: &Extensions) -> Result<Subject> {
        let origin = extensions.get::<Origin>().cloned().unwrap_or_default();
        Subject::of(self.caller(extensions)?, origin)
    }

    /// The same, if requests are still taken: it has been paid for at the door.
    pub(super) fn admit(&self, extensions: &Extensions) -> Result<Subject> {
        let subject = self.subject(extensions)?;
        self.health.modes.check()?;
        Ok(subject)
    }

    /// The same for a request that changes something.
    pub(super) fn admit_write(&self, extensions: &Extensions) -> Result<Subject> {
        let subject = self.subject(extensions)?;
        self.health.modes.check_write()?;
        Ok(subject)
    }

    /// Refuses who may not do what operators do.
    pub(super) fn admit_operator(&self, extensions: &Extensions) -> Result<()> {
        match self.caller(extensions)?.is_admin() {
            true => Ok(()),
            false => Err(Error::Denied("this needs a key with is_admin")),
        }
    }
}
