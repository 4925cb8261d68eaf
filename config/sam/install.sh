#!/usr/bin/env bash
# Runs once on a new host (Amazon Linux 2023), from its user data: software, state volume, password, services, log.
# Wants METRICS_NAME, STATE_VOLUME, PASSWORD_SECRET, LOG_GROUP and AWS_REGION; engine.toml is in place already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
state=/var/lib/private/ingest-engine

dnf install -y -q python3.11 python3.11-pip xfsprogs logrotate

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

# The log is a file that is bounded before the engine begins it.
install -d -m 0750 /var/log/ingest-engine
install -D -m 0644 "$here/logrotate.conf" /etc/logrotate.d/ingest-engine
install -D -m 0644 "$here/logrotate-timer.conf" /etc/systemd/system/logrotate.timer.d/ingest-engine.conf
install -D -m 0644 "$here/journald.conf" /etc/systemd/journald.conf.d/ingest-engine.conf
install -D -m 0644 "$here/log.conf" /etc/systemd/system/ingest-engine.service.d/log.conf

install -m 0644 "$here"/*.service /etc/systemd/system/
systemctl daemon-reload
systemctl restart systemd-journald.service
systemctl enable logrotate.timer
systemctl restart logrotate.timer
systemctl enable --now ingest-engine.service ingest-engine-metrics.service

# Last: the engine runs whether or not its log is shipped.
ship_log() {
  dnf install -y -q amazon-cloudwatch-agent &&
    sed "s|@LOG_GROUP@|$LOG_GROUP|" "$here/cloudwatch-agent.json" >/etc/ingest-engine/cloudwatch-agent.json &&
    /opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s \
      -c file:/etc/ingest-engine/cloudwatch-agent.json
}
ship_log || echo "the engine runs, and its log is not shipped to $LOG_GROUP: see the lines above" >&2
