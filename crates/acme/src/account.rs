//! The account with the authority: made once for each directory, its key kept.

use instant_acme::{Account, AccountCredentials, Error, NewAccount};
use minato_model::tls::Secret;

use crate::{
    Config,
    client::Client,
    store::{Store, StoreError},
};

/// Why there is no account.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    #[error("the account can't be kept")]
    Store(#[from] StoreError),
    #[error("the account that is kept can't be read")]
    Kept(#[from] serde_json::Error),
    #[error("the directory gives no account")]
    Directory(#[from] Error),
}

/// The account that is kept, or a new one.
pub(crate) async fn account(
    config: &Config,
    store: &Store,
    client: &Client,
) -> Result<Account, AccountError> {
    let builder = || Account::builder_with_http(Box::new(client.clone()));
    if let Some(kept) = store.account(&config.directory)? {
        let credentials: AccountCredentials = serde_json::from_str(kept.expose())?;
        return Ok(builder().from_credentials(credentials).await?);
    }
    let contact: Vec<&str> = config.contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder().create(&new, config.directory.clone(), None).await?;
    store.keep_account(&config.directory, &Secret::new(serde_json::to_string(&credentials)?))?;
    Ok(account)
}
