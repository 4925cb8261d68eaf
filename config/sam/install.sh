#!/usr/bin/env bash
# Runs once on a new host (Amazon Linux 2023), from its user data: software, state volume, password, services.
# Wants METRICS_NAME, STATE_VOLUME, PASSWORD_SECRET and AWS_REGION; engine.toml is in place already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
state=/var/lib/private/ingest-engine

dnf install -y -q python3.11 python3.11-pip xfsprogs

python3.11 -m venv /opt/ingest-engine
/opt/ingest-engine/bin/pip install --quiet --no-index --find-links "$here/wheels" ingest-engine

# The volume outlives the host: the one before may hold it for a while yet.
token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' http://169.254.169.254/latest/api/token)
instance=$(curl -sf -H "X-aws-ec2-metadata-token: $token" http://169.254.169.254/latest/meta-data/instance-id)
for attempt in $(seq 60); do
  if aws ec2 attach-volume --volume-id "$STATE_VOLUME" --instance-id "$instance" --device /dev/sdf >/dev/null; then break; fi
  if [ "$attempt" = 60 ]; then echo "the state volume $STATE_VOLUME could not be attached" >&2; exit 1; fi
  sleep 10
done
device=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${STATE_VOLUME/-/}
for _ in $(seq 60); do [ -e "$device" ] && break; sleep 1; done
[ -e "$device" ] || { echo "the state volume does not show as $device" >&2; exit 1; }
if [ -z "$(blkid -o value -s TYPE "$device")" ]; then mkfs.xfs -q "$device"; fi
install -d -m 0700 /var/lib/private
install -d -m 0700 "$state"
echo "$device $state xfs defaults,nosuid,nodev,noexec 0 2" >>/etc/fstab
mount "$state"

password=$(aws secretsmanager get-secret-value --secret-id "$PASSWORD_SECRET" --query SecretString --output text)
umask 077
printf 'ENGINE_REDIS_PASSWORD=%s\nMETRICS_NAME=%s\n' "$password" "$METRICS_NAME" >/etc/ingest-engine/environment
umask 022

install -m 0644 "$here"/*.service /etc/systemd/system/
systemctl daemon-reload
systemctl enable --now ingest-engine.service ingest-engine-metrics.service
