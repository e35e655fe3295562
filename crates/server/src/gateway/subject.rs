//! Scope of a request: the tenant whose documents it is about, and the translation of their ids. Clients of a tenant
//! number their own documents; internal ids have the tenant's number in front.

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

/// A caller that may make the request. The default one is for servers without tenants.
#[derive(Clone, Default)]
pub(super) struct Subject {
    pub(super) caller: Caller,
    tenant: Option<Arc<Tenant>>,
    /// Identification of the request by its client.
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

    /// The tenant's documents in this namespace; in any if it is empty.
    pub(super) fn realm(&self, namespace: &str) -> Realm {
        let tenant = self.tenant.as_ref().map(|tenant| tenant.mark.clone());
        Realm { tenant, namespace: namespace.into() }
    }

    /// The condition that the tenant's documents pass; `None` without tenants.
    pub(super) fn condition(&self) -> Option<Filter> {
        self.tenant.as_ref().map(|tenant| Filter::tenant(&tenant.mark))
    }

    /// Internal id of the client's document.
    pub(super) fn doc_id(&self, field: &'static str, id: u64) -> Result<DocId> {
        let id = validate::doc_id(field, id)?;
        let Some(tenant) = &self.tenant else { return Ok(id) };
        let own = u32::try_from(id.0).map_err(|_| {
            let why = format!("DOC_ID_OUT_OF_RANGE: {} is above {}", id.0, u32::MAX);
            Error::invalid(field, why)
        })?;
        Ok(DocId::of_tenant(tenant.index, own))
    }

    /// Internal id after which documents are listed; 0 is before all of them.
    pub(super) fn bound(&self, field: &'static str, id: u64) -> Result<DocId> {
        match (&self.tenant, id) {
            (None, 0) => Ok(DocId(0)),
            (Some(tenant), 0) => Ok(DocId::of_tenant(tenant.index, 0)),
            (_, id) => self.doc_id(field, id),
        }
    }

    /// Internal ids of the client's documents.
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

    /// Context of a search for the slow-search log.
    pub(super) fn about(&self, request: &proto::SearchRequest) -> About {
        About {
            origin: self.origin.clone(),
            tenant: self.tenant.as_ref().map(|tenant| tenant.mark.clone()),
            has_namespace: !request.namespace.is_empty(),
        }
    }

    /// Most documents of the tenant; `None` for no bound.
    pub(super) fn documents_max(&self) -> Option<u64> {
        self.caller.grant().map(|grant| grant.max_vectors())
    }

    /// The tenant; `None` without tenants.
    pub(super) fn tenant(&self) -> Option<&Arc<Tenant>> {
        self.tenant.as_ref()
    }

    /// The tenant's searches in flight; `None` without tenants.
    pub(super) fn party(&self) -> Option<&Party> {
        self.tenant.as_ref().map(|tenant| &tenant.party)
    }

    /// The tenant's listings and deletes by filter in flight; `None` without tenants.
    pub(super) fn sweeps(&self) -> Option<&Party> {
        self.tenant.as_ref().map(|tenant| &tenant.sweeps)
    }

    /// Counts answered searches or documents read by id.
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
                // The key may have been disabled while the request was read.
                self.access.check(caller)?;
                Ok(caller.clone())
            }
            (true, None) => Err(Error::Internal("a request that nobody has looked at".into())),
        }
    }

    /// The scope of a request about documents.
    pub(super) fn subject(&self, extensions: &Extensions) -> Result<Subject> {
        let origin = extensions.get::<Origin>().cloned().unwrap_or_default();
        Subject::of(self.caller(extensions)?, origin)
    }

    /// The scope of a request, if requests are still taken; admission has charged it already.
    pub(super) fn admit(&self, extensions: &Extensions) -> Result<Subject> {
        let subject = self.subject(extensions)?;
        self.health.modes.check()?;
        Ok(subject)
    }

    /// The scope of a request that changes documents, if such requests are taken.
    pub(super) fn admit_write(&self, extensions: &Extensions) -> Result<Subject> {
        let subject = self.subject(extensions)?;
        self.health.modes.check_write()?;
        Ok(subject)
    }

    /// Refuses callers who may not make operators' requests.
    pub(super) fn admit_operator(&self, extensions: &Extensions) -> Result<()> {
        match self.caller(extensions)?.is_admin() {
            true => Ok(()),
            false => Err(Error::Denied("this needs a key with is_admin")),
        }
    }
}
