# Each alarm has a section in docs/runbooks.md. Missing data of the engine is an alarm: it reports once a minute.

resource "aws_cloudwatch_metric_alarm" "lag" {
  alarm_name          = "${var.name} lag"
  alarm_description   = "The destinations are behind, or the engine reports nothing. docs/runbooks.md#late"
  namespace           = "IngestEngine"
  metric_name         = "LagMs"
  dimensions          = { Engine = var.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 3
  threshold           = var.lag_alarm_ms
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "counted" {
  for_each = {
    Gaps          = "Changes may have gone unheard, and a scan looks for them. docs/runbooks.md#gap-repair"
    DeadLetters   = "Records were given up on. docs/runbooks.md#dead-letters"
    DeletionsHeld = "Deletions wait for a decision. docs/runbooks.md#deletions-held"
  }
  alarm_name          = "${var.name} ${each.key}"
  alarm_description   = each.value
  namespace           = "IngestEngine"
  metric_name         = each.key
  dimensions          = { Engine = var.name }
  statistic           = each.key == "DeletionsHeld" ? "Maximum" : "Sum"
  period              = 60
  evaluation_periods  = 1
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "backlog" {
  alarm_name          = "${var.name} backlog"
  alarm_description   = "Keys of a failing route have waited on disk for ten minutes. docs/runbooks.md#route-failing"
  namespace           = "IngestEngine"
  metric_name         = "KeysBacklog"
  dimensions          = { Engine = var.name }
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 10
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  tags                = var.tags
}
